//! Compiles `proto/` without `protoc` and writes the descriptor set that
//! reflection serves.

use std::path::{Path, PathBuf};
use std::{env, error::Error, fs};

use prost::Message as _;

const PROTO_ROOT: &str = "proto";

fn main() -> Result<(), Box<dyn Error>> {
    // tonic-prost-build prints no rerun directives of its own.
    println!("cargo:rerun-if-changed={PROTO_ROOT}");
    println!("cargo:rerun-if-changed=build.rs");

    let mut files: Vec<PathBuf> = fs::read_dir(Path::new(PROTO_ROOT).join("interlock/v1"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();

    let descriptors = protox::compile(&files, [PROTO_ROOT])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("interlock_descriptor.bin"), descriptors.encode_to_vec())?;

    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".")
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
