//! What a guest boots into: busybox, the daemon, `msg_gen`, and what those load.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use machnet_test_kit::Failure;

use crate::packages::Packages;

/// DPDK's drivers and what they need at run time beside the libraries they are linked with.
const DRIVERS: [&str; 5] = ["bus_pci", "bus_vdev", "mempool_ring", "net_e1000", "net_virtio"];
/// The begin of what is said when one is missing.
const REMEDY: &str = "install libdpdk-dev: there is no driver";
/// Kernel modules; what they depend on stands before them. A kernel may have any of them built in.
const MODULES: [&str; 6] = [
    "virt/lib/irqbypass",
    "drivers/vfio/vfio",
    "drivers/vfio/vfio_virqfd",
    "drivers/vfio/vfio_iommu_type1",
    "drivers/vfio/pci/vfio-pci-core",
    "drivers/vfio/pci/vfio-pci",
];
/// Files by their path in the guest, without the first slash.
#[derive(Default)]
struct Tree(BTreeMap<PathBuf, Entry>);

enum Entry {
    Directory,
    File { content: Vec<u8>, is_program: bool },
    Link(PathBuf),
}

/// Writes the archive to `file`; `programs` are those of ours, put into the guest's `/bin`.
pub(crate) fn write(file: &Path, packages: &Packages, programs: &[PathBuf]) -> Result<(), Failure> {
    let mut tree = Tree::default();
    for directory in ["dev", "proc", "sys", "run", "tmp"] {
        tree.0.insert(directory.into(), Entry::Directory);
    }
    tree.add("init", include_bytes!("init").to_vec(), true);
    tree.add("bin/busybox", read(&packages.busybox)?, true);
    for program in programs {
        let name = Path::new("bin").join(program.file_name().unwrap_or_default());
        tree.add(name, without_symbols(program, file)?, true);
    }
    for directory in ["lib", "lib64"] {
        tree.0.insert(directory.into(), Entry::Link(Path::new("usr").join(directory)));
    }
    let drivers = tree.add_drivers()?;
    tree.add_libraries(programs, &drivers)?;
    tree.add_modules(packages)?;
    fs::write(file, tree.archive()).map_err(|why| Failure(format!("cannot write {}: {why}", file.display())))
}

impl Tree {
    fn add(&mut self, path: impl Into<PathBuf>, content: Vec<u8>, is_program: bool) {
        self.enter(path.into(), Entry::File { content, is_program });
    }

    /// With the directories above it, which come first in the order of paths, as the kernel wants.
    fn enter(&mut self, path: PathBuf, entry: Entry) {
        for directory in path.ancestors().skip(1).filter(|directory| *directory != Path::new("")) {
            self.0.entry(directory.to_owned()).or_insert(Entry::Directory);
        }
        self.0.insert(path, entry);
    }

    /// DPDK's drivers, where the library looks for them: under names that end in `.so`, and as links, so that one that
    /// another is linked with is not loaded twice. The files behind the links.
    fn add_drivers(&mut self) -> Result<Vec<PathBuf>, Failure> {
        let libraries = run("pkg-config", &["--variable=libdir", "libdpdk"])?;
        let libraries = Path::new(libraries.trim());
        let installed = libraries.join("dpdk");
        let directory = names(&installed)?.into_iter().find(|name| name.starts_with("pmds-"));
        let directory = installed.join(directory.ok_or_else(|| Failure(format!("{REMEDY} in {installed:?}")))?);
        let mut found = Vec::new();
        for driver in DRIVERS {
            // With one number at its end: so those that are linked with it name it.
            let is_it = |name: &String| {
                let version = name.strip_prefix(&format!("librte_{driver}.so."));
                version.is_some_and(|version| version.bytes().all(|byte| byte.is_ascii_digit()))
            };
            let name = names(&directory)?.into_iter().find(is_it);
            let file = libraries.join(name.ok_or_else(|| Failure(format!("{REMEDY} {driver} in {directory:?}")))?);
            self.enter(inside(&directory.join(format!("librte_{driver}.so"))), Entry::Link(file.clone()));
            found.push(file);
        }
        Ok(found)
    }

    /// The drivers, and everything that they and the programs are linked with, at the paths they have here.
    fn add_libraries(&mut self, programs: &[PathBuf], drivers: &[PathBuf]) -> Result<(), Failure> {
        let linked: Vec<_> = programs.iter().chain(drivers).map(|path| path.to_string_lossy()).collect();
        let listed = run("ldd", &linked.iter().map(AsRef::as_ref).collect::<Vec<_>>())?;
        // "NAME => PATH (ADDRESS)", or without "NAME =>".
        let paths = listed.lines().filter_map(|line| line.split_once(" (")?.0.split("=> ").last());
        let paths = paths.map(str::trim).filter(|path| path.starts_with('/')).map(PathBuf::from);
        for path in paths.chain(drivers.iter().cloned()) {
            if !self.0.contains_key(&inside(&path)) {
                self.add(inside(&path), read(&path)?, true);
            }
        }
        Ok(())
    }

    /// The modules that the kernel does not have built in, and a `modules.dep` for them.
    fn add_modules(&mut self, packages: &Packages) -> Result<(), Failure> {
        let release = packages.modules.file_name().unwrap_or_default();
        let directory = Path::new("usr/lib/modules").join(release);
        let mut dependencies = String::new();
        let mut earlier: Vec<String> = Vec::new();
        for module in MODULES {
            let name = format!("kernel/{module}.ko");
            let Ok(content) = fs::read(packages.modules.join(&name)) else { continue };
            self.add(directory.join(&name), content, false);
            dependencies += &format!("{name}: {}\n", earlier.join(" "));
            earlier.insert(0, name);
        }
        self.add(directory.join("modules.dep"), dependencies.into_bytes(), false);
        Ok(())
    }

    /// As cpio's "newc" format, which the kernel reads (Documentation/driver-api/early-userspace/buffer-format.rst).
    fn archive(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        for (number, (path, entry)) in (1..).zip(&self.0) {
            let (mode, content) = match entry {
                Entry::Directory => (0o040_755, &[][..]),
                Entry::File { content, is_program } => (if *is_program { 0o100_755 } else { 0o100_644 }, &content[..]),
                Entry::Link(target) => (0o120_777, target.as_os_str().as_bytes()),
            };
            append(&mut archive, number, mode, path.as_os_str().as_bytes(), content);
        }
        append(&mut archive, 0, 0, b"TRAILER!!!", &[]);
        archive
    }
}

/// One entry: a header of hexadecimal numbers, the name and the content, each padded to four bytes.
fn append(archive: &mut Vec<u8>, number: usize, mode: u32, name: &[u8], content: &[u8]) {
    let size = |bytes: usize| u32::try_from(bytes).expect("less than 4 GiB");
    // Inode, mode, owner, group, links, time, size, four numbers of devices, size of the name with its NUL, checksum.
    let name_size = size(name.len() + 1);
    let header = [size(number), mode, 0, 0, 1, 0, size(content.len()), 0, 0, 0, 0, name_size, 0];
    archive.extend(b"070701");
    archive.extend(header.map(|field| format!("{field:08X}")).concat().as_bytes());
    archive.extend(name);
    archive.push(0);
    archive.resize(archive.len().next_multiple_of(4), 0);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// A path here as one of the archive, where `/lib` is a link to `/usr/lib`: every library has one path.
fn inside(path: &Path) -> PathBuf {
    let path = path.strip_prefix("/").unwrap_or(path);
    if path.starts_with("lib") || path.starts_with("lib64") { Path::new("usr").join(path) } else { path.to_owned() }
}

/// A program without what only a debugger needs, which is most of it.
fn without_symbols(program: &Path, beside: &Path) -> Result<Vec<u8>, Failure> {
    let stripped = beside.with_extension("stripped");
    run("strip", &["--strip-debug", "-o", &stripped.to_string_lossy(), &program.to_string_lossy()])?;
    read(&stripped)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    fs::read(path).map_err(|why| Failure(format!("cannot read {}: {why}", path.display())))
}

fn names(directory: &Path) -> Result<Vec<String>, Failure> {
    let entries = fs::read_dir(directory).map_err(|why| Failure(format!("{REMEDY} in {directory:?}: {why}")))?;
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

/// What a program writes to its standard output.
fn run(program: &str, arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|why| Failure(format!("{program} did not run ({why}); install it")))?;
    if !output.status.success() {
        return Err(Failure(format!("{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
