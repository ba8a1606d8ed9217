//! The link of an interface, as those who send through it must know it.

/// Whether an interface carries frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum LinkState {
    /// It does, as far as is known.
    #[default]
    Up,
    /// It was set down, or nobody is at the other end.
    Down,
    /// There is no such interface any more.
    Gone,
}

impl LinkState {
    /// Its word in reports and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Gone => "gone",
        }
    }
}
