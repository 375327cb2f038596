//! Keeps `src/gen` and `docs/protocol.md` equal to `proto/native.proto`. After a change of the proto run
//! `REGENERATE=1 cargo test -p frontier-wire --test native_gen`.

use std::{fs, path::Path};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn generated_code_is_that_of_the_proto() {
    let generated = generate();
    let checked_in = Path::new(ROOT).join("src/gen/frontier.native.v1.rs");
    if std::env::var_os("REGENERATE").is_some() {
        fs::write(&checked_in, &generated).expect("the tree is writable");
    }
    let present = fs::read_to_string(&checked_in).expect("generated code is checked in");
    assert!(present == generated, "src/gen differs from proto/native.proto: run with REGENERATE=1");
}

#[test]
fn document_shows_the_proto() {
    let proto = fs::read_to_string(Path::new(ROOT).join("proto/native.proto")).expect("the proto");
    let document = fs::read_to_string(Path::new(ROOT).join("../docs/protocol.md")).expect("the document");
    let block = document.split("```proto\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(block, Some(proto.as_str()), "section 4 of docs/protocol.md is not proto/native.proto");
}

fn generate() -> String {
    let proto = Path::new(ROOT).join("proto");
    let descriptors = protox::compile([proto.join("native.proto")], [&proto]).expect("the proto compiles");
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join("native_gen");
    fs::create_dir_all(&out).expect("a place for generated code");
    prost_build::Config::new()
        // Encodings are compared byte by byte, so maps need an order.
        .btree_map(["."])
        // They carry secrets, which must not reach a log.
        .skip_debug([".frontier.native.v1.Hello", ".frontier.native.v1.Welcome"])
        .out_dir(&out)
        .compile_fds(descriptors)
        .expect("code is generated");
    fs::read_to_string(out.join("frontier.native.v1.rs")).expect("generated code")
}
