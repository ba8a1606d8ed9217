//! What is installed: names, exports, and what a program needs that is linked with it.

use std::collections::BTreeSet;
use std::process::Command;

use crate::installed::{installed, said, top};

/// All names under which programs ask for a shared library, and the name that it calls itself by.
const SHARED: [(&str, Option<&str>); 4] = [
    ("libmachnet.so", Some("libmachnet.so.0")),
    ("libmachnet.so.0", Some("libmachnet.so.0")),
    ("libmachnet_shim.so", None),
    ("libmachnet_shim.so.0", Some("libmachnet_shim.so.0")),
];

/// What the libraries may need: the C library, and what comes with the compiler.
const NEEDED: [&str; 4] = ["libc.so.", "libgcc_s.so.", "libm.so.", "ld-linux"];

/// What readelf says about a library or program under such a heading.
fn dynamic(file: &std::path::Path, heading: &str) -> Vec<String> {
    let table = said(Command::new("readelf").arg("--dynamic").arg("--wide").arg(file));
    let entries = table.lines().filter(|line| line.contains(&format!("({heading})")));
    entries.map(|line| line.split(['[', ']']).nth(1).unwrap().to_owned()).collect()
}

/// What other files may use of this one.
fn exports(arguments: &[&str], file: &std::path::Path) -> BTreeSet<String> {
    let names = said(Command::new("nm").args(arguments).arg("--defined-only").arg(file));
    let names = names.lines().filter_map(|line| line.split_whitespace().nth(2));
    names.map(|name| name.split('@').next().unwrap().to_owned()).collect()
}

/// The functions and data that the header declares, which are whatever stands before a `(` or is `extern`.
fn declared() -> BTreeSet<String> {
    let header = std::fs::read_to_string(top().join("src/capi/include/machnet.h")).unwrap();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = BTreeSet::new();
    let lines = header.lines().filter(|line| !line.starts_with([' ', '#', '/', '}']) && !line.starts_with("static"));
    for line in lines {
        let declaration = line.split(['(', '[', ';']).next().unwrap_or_default();
        let is_data = line.starts_with("extern ") && !line.contains('"');
        if is_data || line.contains('(') {
            names.insert(declaration.rsplit(|c| !is_name(c)).next().unwrap().to_owned());
        }
    }
    names
}

#[test]
fn what_is_declared_is_exported_and_nothing_else() {
    let listed = std::fs::read_to_string(top().join("src/capi/exports")).unwrap();
    let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    assert_eq!(listed, declared(), "src/capi/exports, and src/capi/include/machnet.h");
    for (name, _) in SHARED {
        assert_eq!(exports(&["--dynamic"], &installed().library(name)), declared(), "{name}");
    }
    let archive = exports(&["--extern-only"], &installed().library("libmachnet.a"));
    let others: Vec<_> = archive.difference(&declared()).cloned().collect();
    // Names that the linker merges with those of the same name.
    let merged = |name: &String| name.starts_with("DW.ref.");
    assert!(others.iter().all(merged), "{others:?}");
    assert!(archive.is_superset(&declared()));
}

#[test]
fn libraries_have_the_names_that_programs_ask_for_and_need_only_the_c_library() {
    for (name, soname) in SHARED {
        let library = installed().library(name);
        assert_eq!(dynamic(&library, "SONAME"), Vec::from_iter(soname.map(str::to_owned)), "{name}");
        for needed in dynamic(&library, "NEEDED") {
            assert!(NEEDED.iter().any(|known| needed.starts_with(known)), "{name} needs {needed}");
        }
    }
    for file in ["lib/libmachnet.a", "lib/pkgconfig/machnet.pc", "include/machnet.h", "include/machnet.hpp"] {
        assert!(installed().prefix().join(file).is_file(), "{file} is not installed");
    }
}

#[test]
fn a_program_needs_no_dpdk_no_io_uring_and_no_rust() {
    let program = installed().compile("tests/capi/programs/ours.c");
    assert_eq!(dynamic(&program, "NEEDED"), ["libmachnet.so.0", "libc.so.6"]);
    let loaded = said(Command::new("ldd").arg(&program));
    for library in loaded.lines().filter_map(|line| line.trim().split(['.', ' ']).next()) {
        let known = ["linux-vdso", "libmachnet", "libgcc_s", "libm", "libc", "libpthread", "libdl", "librt"];
        let is_loader = library.starts_with("/lib64/ld-linux") || library.starts_with("/lib/ld-linux");
        assert!(known.contains(&library) || is_loader, "{library} in {loaded}");
    }
}

#[test]
fn a_program_can_be_linked_statically() {
    let archive = installed().library("libmachnet.a").display().to_string();
    let include = format!("-I{}", installed().prefix().join("include").display());
    let options = [include, archive, "-lgcc_s".into(), "-lpthread".into(), "-ldl".into(), "-lm".into(), "-lrt".into()];
    let program = installed().compile_c("tests/capi/programs/version.c", &options);
    assert!(!dynamic(&program, "NEEDED").iter().any(|needed| needed.contains("machnet")));
    assert_eq!(said(&mut Command::new(program)), format!("{0} {0}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn library_header_and_package_are_of_one_version() {
    let program = installed().compile("tests/capi/programs/version.c");
    assert_eq!(said(&mut Command::new(program)), format!("{0} {0}\n", env!("CARGO_PKG_VERSION")));
    let package = std::fs::read_to_string(installed().prefix().join("lib/pkgconfig/machnet.pc")).unwrap();
    assert!(package.contains(&format!("\nVersion: {}\n", env!("CARGO_PKG_VERSION"))), "{package}");
}
