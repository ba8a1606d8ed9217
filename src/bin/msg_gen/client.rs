//! The client: a closed loop of requests, each sent when an answer has made its place in the window free, or all
//! together when all answers are there.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use machnet::{Delivery, Endpoint, Event, Flow, SendError};

use crate::args::Args;
use crate::meter::Meter;
use crate::pattern::{Pattern, Tag};
use crate::{Run, note, result};

/// How long nothing may arrive while answers are missing: longer than a daemon takes to give a silent host up.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long answers are waited for after Ctrl-C.
const SHORT_PATIENCE: Duration = Duration::from_secs(1);

/// One place in the window.
#[derive(Debug, Clone, Copy)]
struct Slot {
    /// How often it was used before.
    turn: u32,
    /// When its request was sent; `None` while it is free.
    sent_at: Option<Instant>,
}

struct Client<'a> {
    args: &'a Args,
    meter: &'a mut Meter,
    endpoint: Endpoint,
    flow: Flow,
    pattern: Pattern,
    slots: Vec<Slot>,
    /// The free ones.
    free: Vec<u32>,
    /// Requests that may still be sent.
    left: u64,
    last_progress: Instant,
}

/// What one look at the endpoint brought.
enum Arrival {
    Nothing,
    Event,
    Answer { tag: Option<Tag>, intact: bool },
}

/// Runs until the duration, the number of requests or Ctrl-C ends it, and all answers are there.
///
/// # Errors
/// What ended it otherwise, as a sentence. Wrong, missing and surplus answers are counted, not errors.
pub(crate) fn run(
    args: &Args,
    (mut endpoint, local_ip): (Endpoint, IpAddr),
    remote_ip: IpAddr,
    run: &Run,
    meter: &mut Meter,
) -> Result<(), String> {
    let remote = SocketAddr::new(remote_ip, args.remote_port);
    let flow = endpoint.connect(local_ip, remote).map_err(|error| format!("cannot connect to {remote}: {error}"))?;
    let now = Instant::now();
    // Connecting is not part of what is measured.
    *meter = Meter::new(now);
    let mut client = Client {
        args,
        meter,
        endpoint,
        flow,
        pattern: Pattern::default(),
        slots: vec![Slot { turn: 0, sent_at: None }; args.msg_window as usize],
        free: (0..args.msg_window).rev().collect(),
        left: args.msg_nr,
        last_progress: now,
    };
    let end = client.request_until_the_end(run, now);
    let lost = client.in_flight() as u64;
    client.meter.errors(lost);
    client.endpoint.close(flow);
    end
}

impl Client<'_> {
    fn request_until_the_end(&mut self, run: &Run, begin: Instant) -> Result<(), String> {
        let end = self.args.duration.map(|duration| begin + duration);
        let mut stopped_at = None;
        loop {
            let now = Instant::now();
            if stopped_at.is_none() && (run.interrupted() || end.is_some_and(|end| now >= end)) {
                self.left = 0;
                stopped_at = Some(now);
            }
            let sent = self.fill_window()?;
            let received = self.take_answers()?;
            if let Some(line) = self.meter.line(now) {
                result(line);
            }
            if self.left == 0 && self.in_flight() == 0 {
                return Ok(());
            }
            if now > self.patient_until(stopped_at, run.interrupted()) {
                return Err(format!("{} requests have no answer", self.in_flight()));
            }
            if !sent && !received {
                let until = [Some(self.meter.next_line()), end.filter(|_| stopped_at.is_none())];
                let until = until.into_iter().flatten().min().unwrap_or(now);
                self.wait(until.saturating_duration_since(now))?;
            }
        }
    }

    /// When the answers that are missing are given up.
    fn patient_until(&self, stopped_at: Option<Instant>, interrupted: bool) -> Instant {
        match stopped_at {
            Some(stopped_at) if interrupted => stopped_at + SHORT_PATIENCE,
            _ => self.last_progress + PATIENCE,
        }
    }

    /// Sends while there are free places, requests left and room. Whether it sent anything.
    fn fill_window(&mut self) -> Result<bool, String> {
        if let Some(pause) = self.args.pause() {
            if self.in_flight() > 0 || self.left == 0 {
                return Ok(false);
            }
            std::thread::sleep(pause);
        }
        let size = self.args.request_size();
        let mut any = false;
        while self.left > 0
            && let Some(&slot) = self.free.last()
        {
            let place = &mut self.slots[slot as usize];
            let tag = Tag { slot, turn: place.turn }.to_bytes();
            // Before the sending, which is part of the round trip.
            let sent_at = Instant::now();
            match self.endpoint.append_vectored(self.flow, &self.pattern.message(&tag, size)) {
                Ok(()) => {}
                Err(SendError::NoRoom(_)) => break,
                // The event in the channel has the reason.
                Err(SendError::Closed) => break,
                Err(error) => return Err(error.to_string()),
            }
            place.sent_at = Some(sent_at);
            self.free.pop();
            self.left -= 1;
            self.meter.sent(size);
            any = true;
        }
        self.endpoint.flush();
        Ok(any)
    }

    /// Takes everything that has arrived. Whether there was anything.
    fn take_answers(&mut self) -> Result<bool, String> {
        let mut any = false;
        loop {
            match self.take()? {
                Arrival::Nothing => return Ok(any),
                Arrival::Event => {}
                Arrival::Answer { tag, intact } => self.on_answer(tag, intact),
            }
            any = true;
        }
    }

    fn take(&mut self) -> Result<Arrival, String> {
        let Some(delivery) = self.endpoint.recv_in_place().map_err(|error| error.to_string())? else {
            return Ok(Arrival::Nothing);
        };
        match delivery {
            Delivery::Message(message) => {
                self.meter.received(message.len());
                let intact = !self.args.verify || self.pattern.is_in(message.slices());
                return Ok(Arrival::Answer { tag: Tag::of(&message), intact });
            }
            Delivery::Event(Event::Closed { reason, .. }) => return Err(format!("the flow ended: {reason}")),
            Delivery::Event(Event::Silent { .. }) => note("The other host is silent."),
            Delivery::Event(Event::Alive { .. }) => note("The other host is back."),
            Delivery::Event(_) => {}
        }
        Ok(Arrival::Event)
    }

    fn on_answer(&mut self, tag: Option<Tag>, intact: bool) {
        let now = Instant::now();
        let expected = tag.and_then(|tag| {
            let place = self.slots.get_mut(tag.slot as usize).filter(|place| place.turn == tag.turn)?;
            Some((tag.slot, place.sent_at.take()?, place))
        });
        let Some((slot, sent_at, place)) = expected else {
            // It answers nothing that is in flight: its tag is damaged, or it came twice.
            return self.meter.errors(1);
        };
        place.turn = place.turn.wrapping_add(1);
        self.free.push(slot);
        self.last_progress = now;
        self.meter.round_trip(now - sent_at);
        if !intact {
            self.meter.errors(1);
        }
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn wait(&mut self, timeout: Duration) -> Result<(), String> {
        let has_more_to_send = self.left > 0 && !self.free.is_empty() && self.args.pause().is_none();
        let waited = match has_more_to_send {
            true => self.endpoint.wait_either(self.flow, Some(timeout)),
            false => self.endpoint.wait(Some(timeout)),
        };
        waited.map(drop).map_err(|error| error.to_string())
    }
}
