//! `config.json`: what the daemon owns, and its limits. Shared by the daemon and the tools.
//!
//! The file is Machnet's own. `machnet_config` names each interface by its MAC; the keys `ip`, `engine_threads`,
//! `cpu_mask` and `pcie` mean what they mean there, the others are ours. The optional object `machnet_shards` holds
//! what concerns the whole daemon. The file in the repository shows every key with its default, and [`mod@reference`]
//! explains each.
//!
//! Reading looks at nothing but the file: whether a device exists is the daemon's question, and
//! [`cpus::settle_here`] settles which of the CPUs can be used. Every mistake is one [`ConfigError`], whose text
//! is one sentence with file, key, value and remedy.
//!
//! ```text
//!   file ──▶ keys: the table, one type for each object ──▶ interface, limits, faults: what the keys mean together
//!    ▲        value: kinds of values   object: strictness             │
//!    └──────────────────────────── Serialize ─────────────────────────┘
//! ```

mod cpu_mask;
pub mod cpus;
mod error;
mod faults;
pub mod flags;
mod interface;
mod keys;
mod limits;
mod object;
mod place;
pub mod reference;
mod value;

use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

pub use cpu_mask::CpuMask;
pub use error::ConfigError;
pub use faults::{Faults, Rate};
pub use interface::{Attachment, Driver, Interface, Subnet};
pub use limits::{ControlSocket, Limits};

use machnet_core::defaults::SOCKET_VARIABLE;
use serde::ser::{Serialize, Serializer};

use keys::{FileKeys, Interfaces};
use place::Place;
use value::Switch;

/// Where a configuration is looked for when nobody names one, in this order.
pub const DEFAULT_FILES: [&str; 2] = ["config.json", "/etc/machnet/config.json"];

/// The most shards of one daemon, all interfaces together (DPDK's `RTE_MAX_LCORE` on x86-64: each one is a DPDK
/// thread).
pub const SHARDS_MAX: u16 = 128;

/// The longest file that is read; a longer one is no configuration.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A whole configuration, checked: every value is in its range and no two contradict each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from, for messages.
    pub file: PathBuf,
    /// At least one, no two with the same MAC or the same IP, in the order of the file.
    pub interfaces: Vec<Interface>,
    /// The control socket.
    pub control: ControlSocket,
    /// Whether the daemon gives up, once its devices are open, what it does not need any more.
    pub confine: bool,
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
        opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut text).map_err(|why| unreadable(&why))?;
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
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(ConfigError::TooLong { file: file.to_owned(), limit_bytes: FILE_BYTES_MAX });
        }
        let FileKeys { machnet_config, machnet_shards } = read(file, text)?;
        let root = Place::root(file);
        let place = root.below("machnet_config");
        let interfaces =
            machnet_config.ok_or_else(|| place.missing("an object with one entry per interface, named by its MAC"))?;
        let daemon = machnet_shards.unwrap_or_default();
        Ok(Self {
            file: file.to_owned(),
            interfaces: interface::check(interfaces, &place)?,
            control: limits::control_socket(&daemon),
            confine: daemon.confine.is_none_or(|Switch(is_on)| is_on),
            limits: limits::check(&daemon, &root.below("machnet_shards"))?,
        })
    }

    /// Where the control socket is: what the command line says, else the environment, else this configuration.
    pub fn socket(&self, option: Option<&Path>) -> PathBuf {
        let variable = std::env::var_os(SOCKET_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        option.map(Path::to_owned).or(variable).unwrap_or_else(|| self.control.path.clone())
    }

    /// A mistake that only the daemon can find, such as a device that is not there, in the form of all the others.
    /// `key` is a key of the interface, or empty for the interface itself.
    pub fn mistake(&self, interface: &Interface, key: &str, value: &str, remedy: &str) -> ConfigError {
        let place = Place::root(&self.file).below("machnet_config").below(&interface.mac.to_string());
        let place = if key.is_empty() { place } else { place.below(key) };
        place.mistake(format_args!("is {value}: {remedy}"))
    }
}

/// What [`Config::parse`] reads, with every key that has a value; [`Config::file`] is no part of it.
impl Serialize for Config {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let keys = FileKeys {
            machnet_config: Some(Interfaces(self.interfaces.iter().map(Interface::keys).collect())),
            machnet_shards: Some(limits::keys(&self.control, self.confine, &self.limits)),
        };
        keys.serialize(serializer)
    }
}

/// Reads the keys, each by itself: whether they fit together is checked later.
fn read(file: &Path, text: &[u8]) -> Result<FileKeys, ConfigError> {
    let not_json = |why: &serde_json::Error| ConfigError::NotJson { file: file.to_owned(), why: why.to_string() };
    // All of it, before anything is said of a part.
    let _: serde_json::Value = serde_json::from_slice(text).map_err(|why| not_json(&why))?;
    let mut document = serde_json::Deserializer::from_slice(text);
    serde_path_to_error::deserialize(&mut document).map_err(|error| {
        let why = error.inner();
        if !why.is_data() {
            return not_json(why);
        }
        // A key names the place better.
        let complaint = why.to_string();
        let position = format!(" at line {} column {}", why.line(), why.column());
        let complaint = complaint.strip_suffix(&position).unwrap_or(&complaint);
        Place::at(file, error.path()).mistake(complaint)
    })
}
