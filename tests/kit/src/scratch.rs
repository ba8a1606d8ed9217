//! A directory that is gone when this process is, however it ends.

use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::Failure;

/// Waits until its standard input breaks, then removes its argument. Programs that are being killed at that moment may
/// still write, so it tries for a while. Signals from a terminal do not concern it.
const SWEEPER: &str = r#"trap '' HUP INT TERM; cat; tries=0
until rm -rf -- "$1" || [ $((tries += 1)) -ge 50 ]; do sleep 0.1; done"#;

/// A directory, and the process that removes it.
pub struct Scratch {
    path: PathBuf,
    sweeper: Child,
}

impl Scratch {
    /// Makes a directory that only this user can look into.
    pub fn new() -> Result<Self, Failure> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("machnet-test-{}-{number}", std::process::id()));
        let what = |doing: &str| format!("{doing} the scratch directory {}", path.display());
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(|why| Failure::io(&what("cannot make"), &why))?;
        let sweeper = Command::new("sh")
            .args(["-c", SWEEPER, "sweeper"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(|why| Failure::io(&what("cannot start the sweeper of"), &why))?;
        Ok(Self { path, sweeper })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.sweeper.stdin.take());
        let _ = self.sweeper.wait();
    }
}
