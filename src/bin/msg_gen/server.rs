//! The server: answers every request with its tag.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use machnet::{Delivery, Endpoint, Event, Flow, SendError};

use crate::args::Args;
use crate::meter::Meter;
use crate::pattern::{Pattern, Tag};
use crate::{Run, note, result};

/// Answers that one flow may owe because it does not take those before. Whoever asks on and does not read loses it.
const OWED_MAX: usize = 4_096;

/// How often a server that owes answers looks whether it shall end.
const ROOM_STEP: Duration = Duration::from_millis(100);

struct Server<'a> {
    args: &'a Args,
    run: &'a Run,
    meter: &'a mut Meter,
    endpoint: Endpoint,
    pattern: Pattern,
    end: Option<Instant>,
    /// By flow: answers for which there was no room, oldest first. No entry is empty.
    owed: HashMap<Flow, VecDeque<Answer>>,
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
    Server { args, run, meter, endpoint, pattern: Pattern::default(), end, owed: HashMap::new() }.answer_until_the_end()
}

impl Server<'_> {
    fn answer_until_the_end(&mut self) -> Result<(), String> {
        let mut left = self.args.msg_nr;
        // What is owed at the end is still paid.
        while (left > 0 || !self.owed.is_empty()) && !self.is_over() {
            let now = Instant::now();
            if let Some(line) = self.meter.line(now) {
                result(line);
            }
            if left > 0
                && let Some(answer) = self.next_request()?
            {
                self.answer(answer)?;
                left -= 1;
                continue;
            }
            self.pay()?;
            let until = self.end.map_or(self.meter.next_line(), |end| end.min(self.meter.next_line()));
            self.wait(left > 0, until.saturating_duration_since(now))?;
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
                Delivery::Event(Event::Closed { flow, reason, .. }) => {
                    self.owed.remove(&flow);
                    note(format_args!("A flow has ended: {reason}."));
                }
                Delivery::Event(_) => {}
            }
        }
        Ok(None)
    }

    /// Answers, or owes the answer if its flow has no room: who does not take answers holds up nobody else.
    fn answer(&mut self, answer: Answer) -> Result<(), String> {
        if !self.owed.contains_key(&answer.flow) && self.send(&answer)? {
            return Ok(());
        }
        let flow = answer.flow;
        let owed = self.owed.entry(flow).or_default();
        owed.push_back(answer);
        if owed.len() > OWED_MAX {
            note(format_args!("A flow is ended: {OWED_MAX} answers on it were not read."));
            self.owed.remove(&flow);
            self.endpoint.abort(flow);
        }
        Ok(())
    }

    /// Sends what is owed, as far as there is room by now.
    fn pay(&mut self) -> Result<(), String> {
        let flows: Vec<Flow> = self.owed.keys().copied().collect();
        for flow in flows {
            let Some(mut owed) = self.owed.remove(&flow) else { continue };
            while let Some(answer) = owed.front() {
                if !self.send(answer)? {
                    self.owed.insert(flow, owed);
                    break;
                }
                owed.pop_front();
            }
        }
        Ok(())
    }

    /// Waits for requests, if more are wanted, and for room on one of the flows that are owed something.
    fn wait(&mut self, wants_requests: bool, timeout: Duration) -> Result<(), String> {
        let room_step = Some(timeout.min(ROOM_STEP));
        let waited = match self.owed.keys().next().copied() {
            Some(flow) if wants_requests => self.endpoint.wait_either(flow, room_step),
            Some(flow) => self.endpoint.wait_room(flow, room_step),
            None => self.endpoint.wait(Some(timeout)),
        };
        waited.map(drop).map_err(|error| error.to_string())
    }

    /// Sends an answer; `false` if there is no room.
    fn send(&mut self, answer: &Answer) -> Result<bool, String> {
        let tag = answer.tag.to_bytes();
        match self.endpoint.append_vectored(answer.flow, &self.pattern.message(&tag, answer.size)) {
            Ok(()) => {
                self.meter.sent(answer.size);
                Ok(true)
            }
            // Whoever asked is gone.
            Err(SendError::Closed) => Ok(true),
            Err(SendError::NoRoom(_)) => Ok(false),
            Err(error) => Err(error.to_string()),
        }
    }
}
