//! What does a message cost between two ends of a channel?
fn main() {}
