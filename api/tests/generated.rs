//! The checked-in code is what the protobuf files generate.
//!
//! After a change of a file: `FRONTIER_REGENERATE=1 cargo test -p frontier-api --test generated`.

use std::{fs, path::Path};

use prost::Message as _;

/// Each file and what the compiler calls its code. Two files share a package, and names in it, as those of existing clients do: so each is
/// compiled by itself.
const FILES: [(&str, &str); 3] = [
    ("controlplane", "controlplane.rs"),
    ("cluster", "controlplane.rs"),
    ("registry", "frontier.atlas.v1.rs"),
];

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked_in = root.join("src/gen");
    let regenerate = std::env::var_os("FRONTIER_REGENERATE").is_some();
    for (file, code) in FILES {
        let mut compiler = protox::Compiler::new([root.join("proto")]).unwrap();
        // Comments are in the generated code; reflection clients have no use for positions.
        compiler.include_source_info(true).open_file(format!("{file}.proto")).unwrap();
        let described = compiler.file_descriptor_set();
        let mut plain = described.clone();
        plain.file.iter_mut().for_each(|file| file.source_code_info = None);
        let out = tempfile::tempdir().unwrap();
        tonic_prost_build::configure().out_dir(out.path()).compile_fds(described).unwrap();

        let code = fs::read(out.path().join(code)).unwrap();
        for (extension, generated) in [("rs", code), ("bin", plain.encode_to_vec())] {
            let path = checked_in.join(format!("{file}.{extension}"));
            if regenerate {
                fs::write(&path, &generated).unwrap();
            }
            let current = fs::read(&path).unwrap_or_default();
            assert!(current == generated, "{} is not what the protobuf files generate", path.display());
        }
    }
}
