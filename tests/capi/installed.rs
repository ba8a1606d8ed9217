//! The C libraries as `make install` installs them, and programs that are compiled with them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

use machnet_test_kit::Scratch;
use machnet_test_kit::hosts::Host;

/// C as programs are compiled that want to know of everything.
const C11: [&str; 6] = ["cc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic"];
const CPP17: [&str; 6] = ["c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-pedantic"];

/// All that was installed for the tests of this process.
static INSTALLED: LazyLock<Installed> = LazyLock::new(Installed::new);

/// Somewhere to install to, and to compile in.
pub(crate) struct Installed {
    scratch: Scratch,
    /// How many programs were compiled.
    programs: AtomicU32,
}

/// The top of the repository.
pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whatever is installed; once for all tests.
pub(crate) fn installed() -> &'static Installed {
    &INSTALLED
}

impl Installed {
    /// Installs what this build has.
    fn new() -> Self {
        let programs = Host::ours("machnet-shards").unwrap();
        let build = programs.parent().unwrap();
        let archive = build.join("libmachnet_shim.a");
        assert!(archive.is_file(), "{}: build it with cargo build --package machnet-capi", archive.display());
        let scratch = Scratch::new().unwrap();
        let target = scratch.file("target");
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(build, target.join("release")).unwrap();
        said(
            Command::new("make")
                .args(["install", "PREFIX=/usr/local"])
                .current_dir(top())
                .env_remove("MAKEFLAGS")
                .env("CARGO_TARGET_DIR", &target)
                .env("DESTDIR", scratch.path()),
        );
        Self { scratch, programs: AtomicU32::new(0) }
    }

    /// Where everything is.
    pub(crate) fn prefix(&self) -> PathBuf {
        self.scratch.file("usr/local")
    }

    /// A library.
    pub(crate) fn library(&self, name: &str) -> PathBuf {
        self.prefix().join("lib").join(name)
    }

    /// What pkg-config says for the installed package.
    fn flags(&self) -> Vec<String> {
        let pkgconfig = self.prefix().join("lib/pkgconfig");
        let mut pkg_config = Command::new("pkg-config");
        pkg_config.args(["--cflags", "--libs", "machnet"]).env("PKG_CONFIG_PATH", pkgconfig);
        said(&mut pkg_config).split_whitespace().map(str::to_owned).collect()
    }

    /// Compiles a program as the manual says; by its name's end it is C or C++.
    pub(crate) fn compile(&self, source: &str) -> PathBuf {
        let compiler = if source.ends_with(".cpp") { &CPP17 } else { &C11 };
        let library_path = format!("-Wl,-rpath,{}", self.prefix().join("lib").display());
        self.compile_with(compiler, source, &[&self.flags()[..], &[library_path]].concat())
    }

    /// Compiles a C program with these options.
    pub(crate) fn compile_c(&self, source: &str, options: &[String]) -> PathBuf {
        self.compile_with(&C11, source, options)
    }

    fn compile_with(&self, compiler: &[&str], source: &str, options: &[String]) -> PathBuf {
        let number = self.programs.fetch_add(1, Ordering::Relaxed);
        let name = source.rsplit('/').next().unwrap().replace('.', "_");
        let program = self.scratch.file(&format!("{name}_{number}"));
        let mut command = Command::new(compiler[0]);
        command.args(&compiler[1..]).arg(top().join(source)).arg("-o").arg(&program).args(options);
        said(&mut command);
        program
    }

    /// A directory of its own for a test.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let directory = self.scratch.file(name);
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }
}

/// Runs a command to its good end; gives what it said on its standard output.
pub(crate) fn said(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|why| panic!("{command:?}: {why}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
