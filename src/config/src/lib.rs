//! `config.json`: what the daemon owns, and its limits. Shared by the daemon and the tools.
//!
//! The file is Machnet's own. `machnet_config` names each interface by its MAC; the keys `ip`, `engine_threads`,
//! `cpu_mask` and `pcie` mean what they mean there, the others are ours. The optional object `machnet_shards` holds
//! what concerns the whole daemon. The file in the repository shows every key with its default.
//!
//! Reading looks at nothing but the file: whether a device exists is the daemon's question, whether a CPU exists is
//! [`Config::check_cpus`]. Every mistake is one [`ConfigError`], whose text is one sentence with file, key, value and
//! remedy.

mod cpu_mask;
mod document;
mod error;
mod faults;
pub mod flags;
mod interface;
mod limits;

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

pub use cpu_mask::CpuMask;
pub use error::ConfigError;
pub use faults::{Faults, Rate};
pub use interface::{Attachment, Driver, Interface, Subnet};
pub use limits::{ControlSocket, Limits};

use machnet_core::defaults::SOCKET_VARIABLE;

use document::{Json, Place};

/// Where a configuration is looked for when nobody names one, in this order.
pub const DEFAULT_FILES: [&str; 2] = ["config.json", "/etc/machnet/config.json"];

/// The most shards of one daemon, all interfaces together (DPDK's `RTE_MAX_LCORE` on x86-64: each one is a DPDK
/// thread).
pub const MAX_SHARDS: u16 = 128;

/// The longest file that is read; a longer one is no configuration.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A whole configuration, checked: every value is in its range and no two contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from, for messages.
    pub file: PathBuf,
    /// At least one, no two with the same MAC or the same IP, in the order of the file.
    pub interfaces: Vec<Interface>,
    /// The control socket.
    pub control: ControlSocket,
    /// Budgets and time limits.
    pub limits: Limits,
}

impl Config {
    /// Reads and checks `file`.
    ///
    /// # Errors
    /// The first mistake in the file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let unreadable = |why: &std::io::Error| ConfigError::Unreadable { file: file.to_owned(), why: why.to_string() };
        let mut text = Vec::new();
        let opened = std::fs::File::open(file).map_err(|why| unreadable(&why))?;
        opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut text).map_err(|why| unreadable(&why))?;
        Self::parse(file, &text)
    }

    /// Reads and checks the first of [`DEFAULT_FILES`] that exists.
    ///
    /// # Errors
    /// As [`load`](Self::load), or that there is none.
    pub fn load_default() -> Result<Self, ConfigError> {
        for file in DEFAULT_FILES.map(Path::new) {
            match file.metadata() {
                Err(why) if why.kind() == ErrorKind::NotFound => {}
                _ => return Self::load(file),
            }
        }
        Err(ConfigError::NoDefaultFile)
    }

    /// Checks `text` as the contents of `file`, which is not opened.
    ///
    /// # Errors
    /// The first mistake in the text.
    pub fn parse(file: &Path, text: &[u8]) -> Result<Self, ConfigError> {
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(ConfigError::TooLong { file: file.to_owned(), limit_bytes: MAX_FILE_BYTES });
        }
        let root: Json = serde_json::from_slice(text)
            .map_err(|why| ConfigError::NotJson { file: file.to_owned(), why: why.to_string() })?;
        let root = Place::root(file, &root);
        let root = root.object(&["machnet_config", "machnet_shards"])?;
        let interfaces = root.required("machnet_config", "an object with one entry per interface, named by its MAC")?;
        let interfaces = interface::read_all(&interfaces)?;
        let (control, limits) = limits::read(root.optional("machnet_shards").as_ref())?;
        Ok(Self { file: file.to_owned(), interfaces, control, limits })
    }

    /// Where the control socket is: what the command line says, else the environment, else this configuration.
    pub fn socket(&self, option: Option<&Path>) -> PathBuf {
        let variable = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        option.map(Path::to_owned).or(variable).unwrap_or_else(|| self.control.path.clone())
    }

    /// Checks that every CPU of every mask is among `existing`; [`CpuMask::online`] gives this host's.
    ///
    /// # Errors
    /// The first CPU that is not there.
    pub fn check_cpus(&self, existing: &CpuMask) -> Result<(), ConfigError> {
        for interface in &self.interfaces {
            let Some(mask) = &interface.cpu_mask else { continue };
            if let Some(missing) = mask.cpus().find(|&cpu| !existing.contains(cpu)) {
                let remedy = format!("CPU {missing} does not exist here, choose among CPUs {}", existing.ranges());
                return Err(self.mistake(interface, "cpu_mask", &mask.to_string(), &remedy));
            }
        }
        Ok(())
    }

    /// A mistake that only the daemon can find, such as a device that is not there, in the form of all the others.
    /// `key` is a key of the interface, or empty for the interface itself.
    pub fn mistake(&self, interface: &Interface, key: &str, value: &str, remedy: &str) -> ConfigError {
        let mut place = format!("machnet_config.\"{}\"", interface.mac);
        if !key.is_empty() {
            place.push('.');
            place.push_str(key);
        }
        ConfigError::Wrong { file: self.file.clone(), key: place, value: value.to_owned(), remedy: remedy.to_owned() }
    }
}
