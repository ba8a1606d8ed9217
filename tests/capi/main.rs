//! The C API as C programs meet it: installed, linked, and between two hosts.

mod examples;
mod installed;
mod linking;
mod pair;
mod python;
mod talking;
