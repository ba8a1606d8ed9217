//! The C API as C programs meet it: installed, linked, and between two hosts.

mod installed;
mod linking;
mod talking;
