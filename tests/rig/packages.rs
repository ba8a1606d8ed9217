//! Where the kernel, busybox and QEMU are that `tests/rig/packages` put there.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use machnet_test_kit::Failure;

/// Says where the packages are.
const DIRECTORY: &str = "MACHNET_RIG";

/// What guests are made of.
pub(crate) struct Packages {
    /// The kernel's image.
    pub(crate) kernel: PathBuf,
    /// The directory of its modules, named after its release.
    pub(crate) modules: PathBuf,
    /// busybox, linked statically.
    pub(crate) busybox: PathBuf,
    /// QEMU: the unpacked one, or the system's.
    pub(crate) qemu: PathBuf,
    /// Where all packages are unpacked.
    root: PathBuf,
}

impl Packages {
    /// Finds them.
    pub(crate) fn find() -> Result<Self, Failure> {
        let directory = std::env::var_os(DIRECTORY).and_then(|directory| std::path::absolute(directory).ok());
        let root = directory.map(|directory| directory.join("root"));
        let root = root.ok_or_else(|| Failure(format!("{DIRECTORY} does not say where the packages are: {REMEDY}")))?;
        let qemu = root.join("usr/bin/qemu-system-x86_64");
        Ok(Self {
            kernel: first(&root, &["boot/vmlinuz-"])?,
            modules: first(&root, &["lib/modules/", "usr/lib/modules/"])?,
            busybox: first(&root, &["bin/busybox", "usr/bin/busybox"])?,
            qemu: if qemu.exists() { qemu } else { "qemu-system-x86_64".into() },
            root,
        })
    }

    /// Where QEMU finds the libraries that are not installed, as `LD_LIBRARY_PATH` has it.
    pub(crate) fn libraries(&self) -> OsString {
        let directories = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|path| self.root.join(path));
        std::env::join_paths(directories).expect("make does without colons in paths, too")
    }

    /// Where QEMU finds firmware: with the unpacked one, and what the system had already.
    pub(crate) fn firmware(&self) -> impl Iterator<Item = PathBuf> {
        ["usr/share/qemu", "usr/share/seabios"]
            .into_iter()
            .flat_map(|path| [self.root.join(path), Path::new("/").join(path)])
    }
}

const REMEDY: &str = "run make test-rig, which fetches what the guests are made of";

/// The first file whose path begins with one of these.
fn first(root: &Path, beginnings: &[&str]) -> Result<PathBuf, Failure> {
    for beginning in beginnings {
        let (directory, name) = beginning.rsplit_once('/').unwrap_or(("", beginning));
        for entry in std::fs::read_dir(root.join(directory)).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(name) {
                return Ok(entry.path());
            }
        }
    }
    Err(Failure(format!("{} is not in {}: {REMEDY}", beginnings[0], root.display())))
}
