//! What an application links.
