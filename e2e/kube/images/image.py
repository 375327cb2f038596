#!/usr/bin/env python3
"""Writes a container image as a docker-archive with one layer, without any container tool. The same input gives the same bytes.

    image.py OUT.tar --tag NAME:TAG [--tag …] --dockerfile FILE --context DIR --built DIR
    image.py OUT.tar --tag NAME:TAG [--entrypoint a,b] [--cmd a,b] [--user U] [--link DEST=TARGET]… SRC=DEST…

The first form carries out the last stage of a Dockerfile: files of the context from --context, those of other stages by their base name from --built, and, in
place of the base image, the shared libraries that the programs need. The second form needs no Dockerfile; `--libraries` adds the libraries there, too.
"""

import argparse
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
USERS = {
    "/etc/passwd": b"root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532::/tmp:/bin/false\n",
    "/etc/group": b"root:x:0:\nnonroot:x:65532:\n",
}


class Layer:
    """The file system of the image."""

    def __init__(self):
        self.bytes = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.bytes, mode="w", format=tarfile.GNU_FORMAT)
        self.seen = set()
        for folder in ("/etc", "/proc", "/sys", "/dev"):
            self.folder(folder)
        self.folder("/tmp", 0o1777)
        for path, content in USERS.items():
            self.add(path, content, 0o644)

    def info(self, path, **fields):
        info = tarfile.TarInfo(path.lstrip("/"))
        info.mtime = 0
        for name, value in fields.items():
            setattr(info, name, value)
        return info

    def folder(self, path, mode=0o755):
        path = path.rstrip("/")
        if path and path not in self.seen:
            self.folder(os.path.dirname(path))
            self.seen.add(path)
            self.tar.addfile(self.info(path, type=tarfile.DIRTYPE, mode=mode))

    def add(self, path, content, mode):
        if path not in self.seen:
            self.folder(os.path.dirname(path))
            self.seen.add(path)
            self.tar.addfile(self.info(path, size=len(content), mode=mode), io.BytesIO(content))

    def link(self, path, target):
        self.folder(os.path.dirname(path))
        self.tar.addfile(self.info(path, type=tarfile.SYMTYPE, linkname=target, mode=0o777))

    def copy(self, source, path):
        if os.path.isdir(source):
            for folder, _, names in sorted(os.walk(source)):
                for name in sorted(names):
                    file = os.path.join(folder, name)
                    self.copy(file, os.path.join(path, os.path.relpath(file, source)))
        else:
            with open(source, "rb") as file:
                self.add(path, file.read(), os.stat(source).st_mode & 0o777)

    def libraries(self, program):
        """The shared libraries of a program, under the paths by which it looks for them."""
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False).stdout
        for path in re.findall(r"/\S+", listed):
            self.copy(os.path.realpath(path), path)

    def done(self):
        self.tar.close()
        return self.bytes.getvalue()


def last_stage(dockerfile):
    """Instructions of the last stage, as (name, arguments)."""
    with open(dockerfile) as file:
        text = re.sub(r"\\\n", " ", file.read())
    lines = [line.strip() for line in text.splitlines()]
    pairs = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    begin = max(number for number, pair in enumerate(pairs) if pair[0] == "FROM")
    return [(pair[0], pair[1]) for pair in pairs[begin + 1 :]]


def carry_out(options, layer, config):
    for name, arguments in last_stage(options.dockerfile):
        if name == "COPY":
            words = arguments.split()
            built = words[0].startswith("--from=")
            source, path = words[1 if built else 0 :]
            if built:
                program = os.path.join(options.built, os.path.basename(source))
                layer.copy(program, path)
                layer.libraries(program)
            else:
                layer.copy(os.path.join(options.context, source), path)
        elif name in ("ENTRYPOINT", "CMD"):
            config[name.capitalize()] = json.loads(arguments)
        elif name == "USER":
            config["User"] = arguments
        elif name == "EXPOSE":
            config["ExposedPorts"] = {f"{port}/tcp": {} for port in arguments.split()}
        else:
            sys.exit(f"{options.dockerfile}: {name} is not understood here")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("out")
    parser.add_argument("--tag", action="append", required=True)
    parser.add_argument("--dockerfile")
    parser.add_argument("--context", default=".")
    parser.add_argument("--built", default="target/debug")
    parser.add_argument("--entrypoint", type=lambda text: text.split(","))
    parser.add_argument("--cmd", type=lambda text: text.split(","))
    parser.add_argument("--user", default="")
    parser.add_argument("--link", action="append", default=[])
    parser.add_argument("--libraries", action="store_true")
    parser.add_argument("files", nargs="*")
    options = parser.parse_intermixed_args()

    layer, config = Layer(), {"Env": [PATH], "WorkingDir": "/", "User": options.user}
    if options.dockerfile:
        carry_out(options, layer, config)
    for file in options.files:
        source, path = file.split("=", 1)
        layer.copy(source, path)
        if options.libraries:
            layer.libraries(source)
    for link in options.link:
        layer.link(*link.split("=", 1))
    for name in ("entrypoint", "cmd"):
        if getattr(options, name):
            config[name.capitalize()] = getattr(options, name)

    content = layer.done()
    digest = hashlib.sha256(content).hexdigest()
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    image = {
        "architecture": machine,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "image.py"}],
    }
    image = json.dumps(image, sort_keys=True).encode()
    name = hashlib.sha256(image).hexdigest() + ".json"
    manifest = [{"Config": name, "RepoTags": options.tag, "Layers": [digest + "/layer.tar"]}]
    with tarfile.open(options.out, "w", format=tarfile.GNU_FORMAT) as archive:
        parts = ((name, image), (digest + "/layer.tar", content), ("manifest.json", json.dumps(manifest).encode()))
        for path, part in parts:
            archive.addfile(layer.info(path, size=len(part), mode=0o644), io.BytesIO(part))
    print(f"{options.out}: {', '.join(options.tag)}, {len(content) >> 20} MiB")


main()
