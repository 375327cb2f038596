//! The checked-in code is what the protobuf files generate.
//!
//! After a change of a file: `FRONTIER_REGENERATE=1 cargo test -p frontier-api --test generated`.

use std::{fs, path::Path};

use prost::Message as _;

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut compiler = protox::Compiler::new([root.join("proto")]).unwrap();
    // Comments are in the generated code; reflection clients have no use for positions.
    compiler.include_source_info(true).open_file("controlplane.proto").unwrap();
    let described = compiler.file_descriptor_set();
    let mut plain = described.clone();
    plain.file.iter_mut().for_each(|file| file.source_code_info = None);

    let out = tempfile::tempdir().unwrap();
    tonic_prost_build::configure().out_dir(out.path()).compile_fds(described).unwrap();
    fs::write(out.path().join("controlplane.bin"), plain.encode_to_vec()).unwrap();

    let checked_in = root.join("src/gen");
    let regenerate = std::env::var_os("FRONTIER_REGENERATE").is_some();
    for name in ["controlplane.rs", "controlplane.bin"] {
        let (generated, path) = (fs::read(out.path().join(name)).unwrap(), checked_in.join(name));
        if regenerate {
            fs::write(&path, &generated).unwrap();
        }
        let current = fs::read(&path).unwrap_or_default();
        assert!(current == generated, "{} is not what the protobuf files generate", path.display());
    }
}
