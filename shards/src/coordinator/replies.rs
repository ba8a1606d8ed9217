//! Answers on their way to one application.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use machnet::CONNECTS_UNDER_WAY_MAX;
use machnet::daemon::control::message::{Numbered, Reply};
use rustix::io::Errno;

/// Answers that wait; an application that asks for more meanwhile is ended: more than those of all connects that it may
/// have under way, and of the channels that they need.
const WAITING_MAX: usize = 2 * CONNECTS_UNDER_WAY_MAX;

/// An answer, and the descriptors beside it.
type Answer = (Numbered<Reply>, Vec<OwnedFd>);

/// Answers that wait, in their order: as many descriptors of this user's are in the queues of sockets as may be (the
/// limit of open files), which others may have brought about.
#[derive(Debug, Default)]
pub(super) struct Replies {
    waiting: VecDeque<Answer>,
}

impl Replies {
    /// Sends one more by `send`, now or later.
    ///
    /// # Errors
    /// The application is to be ended.
    pub(super) fn send(
        &mut self,
        answer: Answer,
        send: impl FnMut(&Numbered<Reply>, &[OwnedFd]) -> io::Result<()>,
    ) -> io::Result<()> {
        self.waiting.push_back(answer);
        self.flush(send)
    }

    /// Sends those that wait.
    ///
    /// # Errors
    /// The application is to be ended.
    pub(super) fn flush(
        &mut self,
        mut send: impl FnMut(&Numbered<Reply>, &[OwnedFd]) -> io::Result<()>,
    ) -> io::Result<()> {
        while let Some((reply, fds)) = self.waiting.front() {
            match send(reply, fds) {
                Ok(()) => drop(self.waiting.pop_front()),
                Err(error) if has_to_wait(&error) && self.waiting.len() <= WAITING_MAX => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Whether what could not be sent may be sent later: too many descriptors are under way, of whomever.
pub(super) fn has_to_wait(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::TOOMANYREFS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(id: u32) -> Answer {
        (Numbered { id, body: Reply::Unlistened {} }, Vec::new())
    }

    fn refused(errno: Errno) -> io::Result<()> {
        Err(errno.into())
    }

    #[test]
    fn what_cannot_be_sent_for_the_sake_of_others_waits_and_keeps_its_order() {
        let mut replies = Replies::default();
        let mut sent = Vec::new();
        for id in 1..=3 {
            assert!(replies.send(answer(id), |_, _| refused(Errno::TOOMANYREFS)).is_ok());
        }
        assert!(!replies.is_empty());
        let mut take = |reply: &Numbered<Reply>, _: &[OwnedFd]| {
            sent.push(reply.id);
            Ok(())
        };
        assert!(replies.send(answer(4), &mut take).is_ok() && replies.is_empty());
        assert_eq!(sent, [1, 2, 3, 4]);
    }

    #[test]
    fn who_reads_nothing_or_asks_on_and_on_is_ended() {
        let mut replies = Replies::default();
        assert!(replies.send(answer(1), |_, _| refused(Errno::AGAIN)).is_err());
        let mut replies = Replies::default();
        let send = |_: &Numbered<Reply>, _: &[OwnedFd]| refused(Errno::TOOMANYREFS);
        let sent = (0..1_000).take_while(|id| replies.send(answer(*id), send).is_ok()).count();
        assert_eq!(sent, WAITING_MAX);
    }
}
