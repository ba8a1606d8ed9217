//! Tokens that must come back: one that is dropped fails its test.

extern crate std;

/// A token by number. Not `Clone`, so that a flow can only give back what it got.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Token(u32);

impl Token {
    pub(super) const fn new(number: u32) -> Self {
        Self(number)
    }

    /// The token has come home.
    pub(super) fn spend(self) -> u32 {
        let number = self.0;
        core::mem::forget(self);
        number
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "token {} was dropped", self.0);
    }
}

#[test]
#[should_panic(expected = "token 7 was dropped")]
fn a_token_that_is_dropped_is_noticed() {
    drop(Token::new(7));
}
