//! The server: answers every request with its tag.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use machnet::{Delivery, Endpoint, Event, Flow, SendError};

use crate::args::Args;
use crate::meter::Meter;
use crate::pattern::{Pattern, Tag};
use crate::{Run, note, result};

/// How often a server whose answer has no room looks whether it shall end.
const ROOM_STEP: Duration = Duration::from_millis(100);

struct Server<'a> {
    args: &'a Args,
    run: &'a Run,
    meter: &'a mut Meter,
    endpoint: Endpoint,
    pattern: Pattern,
    end: Option<Instant>,
}

/// What a request asks for.
struct Answer {
    flow: Flow,
    tag: Tag,
    size: usize,
}

/// Runs until the duration, the number of answers or Ctrl-C ends it.
///
/// # Errors
/// What ended it otherwise, as a sentence. Wrong requests are counted, not errors.
pub(crate) fn run(
    args: &Args,
    (mut endpoint, local_ip): (Endpoint, IpAddr),
    run: &Run,
    meter: &mut Meter,
) -> Result<(), String> {
    let local = SocketAddr::new(local_ip, args.local_port);
    let local = endpoint.listen(local).map_err(|error| format!("cannot listen on {local}: {error}"))?;
    note(format_args!("Listening on {local}."));
    let end = args.duration.map(|duration| Instant::now() + duration);
    Server { args, run, meter, endpoint, pattern: Pattern::default(), end }.answer_until_the_end()
}

impl Server<'_> {
    fn answer_until_the_end(&mut self) -> Result<(), String> {
        let mut left = self.args.msg_nr;
        while left > 0 && !self.is_over() {
            let now = Instant::now();
            if let Some(line) = self.meter.line(now) {
                result(line);
            }
            if let Some(answer) = self.next_request()? {
                self.send(&answer)?;
                left -= 1;
                continue;
            }
            let until = self.end.map_or(self.meter.next_line(), |end| end.min(self.meter.next_line()));
            self.endpoint.wait(Some(until.saturating_duration_since(now))).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.run.interrupted() || self.end.is_some_and(|end| Instant::now() >= end)
    }

    /// The next request that can be answered; `None` when nothing more waits.
    fn next_request(&mut self) -> Result<Option<Answer>, String> {
        while let Some(delivery) = self.endpoint.recv_in_place().map_err(|error| error.to_string())? {
            match delivery {
                Delivery::Message(message) => {
                    self.meter.received(message.len());
                    if self.args.verify && !self.pattern.is_in(message.slices()) {
                        self.meter.errors(1);
                    }
                    match Tag::of(&message) {
                        Some(tag) => {
                            let size = self.args.msg_size.unwrap_or(message.len());
                            return Ok(Some(Answer { flow: message.flow(), tag, size }));
                        }
                        None => self.meter.errors(1),
                    }
                }
                Delivery::Event(Event::Opened { tuple, .. }) => note(format_args!("{} has connected.", tuple.remote)),
                Delivery::Event(Event::Closed { reason, .. }) => note(format_args!("A flow has ended: {reason}.")),
                Delivery::Event(_) => {}
            }
        }
        Ok(None)
    }

    /// Waits for room if there is none: who does not take its answers gets no more of them, and sends no more requests.
    fn send(&mut self, answer: &Answer) -> Result<(), String> {
        let tag = answer.tag.to_bytes();
        loop {
            match self.endpoint.append_vectored(answer.flow, &self.pattern.message(&tag, answer.size)) {
                Ok(()) => {
                    self.meter.sent(answer.size);
                    return Ok(());
                }
                // Whoever asked is gone.
                Err(SendError::Closed) => return Ok(()),
                Err(SendError::NoRoom) if self.is_over() => return Ok(()),
                Err(SendError::NoRoom) => {
                    self.endpoint.wait_room(Some(ROOM_STEP)).map_err(|error| error.to_string())?;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}
