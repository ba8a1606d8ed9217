//! What each user of the host has, and may have: nobody can use up what others need.

use std::collections::BTreeMap;

use machnet::daemon::control::message::ControlError;

use crate::coordinator::share::leaves_room;

/// Connections of a user beyond its endpoints: those that are about to attach, or ask for the status.
const UNATTACHED_OF_USER_MAX: u32 = 256;

/// Connections at the same time, over all users.
const CONNECTIONS_MAX: u64 = 65_536;

/// Descriptors of a connection: its socket, and its process.
const CONNECTION_DESCRIPTORS: u64 = 2;

/// Descriptors of a channel: its memory, both bells, and the watch for one of them; and as many as are sent to the
/// application at first.
const CHANNEL_DESCRIPTORS: u64 = 7;

/// Users with connections or channels.
#[derive(Debug)]
pub(super) struct Users {
    by_uid: BTreeMap<u32, Usage>,
    endpoints_max: u32,
    channel_bytes_max: u64,
    /// What this process may open.
    descriptors_max: u64,
    /// Endpoints, connections and descriptors of all users.
    endpoints: u64,
    connections: u64,
    descriptors: u64,
}

/// What a user has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    /// Attached or not.
    connections: u32,
    endpoints: u32,
    channels: u32,
    channel_bytes: u64,
}

impl Users {
    /// Every user may have so many endpoints, and so many bytes of channels; all together so many descriptors.
    pub(super) fn new(endpoints_max: u32, channel_bytes_max: u64, descriptors_max: u64) -> Self {
        Self {
            by_uid: BTreeMap::new(),
            endpoints_max,
            channel_bytes_max,
            descriptors_max,
            endpoints: 0,
            connections: 0,
            descriptors: 0,
        }
    }

    /// Endpoints of all users.
    pub(super) fn endpoints(&self) -> u64 {
        self.endpoints
    }

    /// One more connection; `false` if the user has as many as it may.
    pub(super) fn add_connection(&mut self, uid: u32) -> bool {
        let usage = self.by_uid.get(&uid).copied().unwrap_or_default();
        let has_room = usage.connections < self.endpoints_max.saturating_add(UNATTACHED_OF_USER_MAX)
            && leaves_room(usage.connections.into(), self.connections, CONNECTIONS_MAX)
            && self.has_descriptors(usage, CONNECTION_DESCRIPTORS);
        if has_room {
            self.restore_connection(uid, false);
        }
        has_room
    }

    /// There is one more connection, or endpoint, whatever the limits are now.
    pub(super) fn restore_connection(&mut self, uid: u32, is_endpoint: bool) {
        let usage = self.by_uid.entry(uid).or_default();
        usage.connections += 1;
        usage.endpoints += u32::from(is_endpoint);
        self.endpoints += u64::from(is_endpoint);
        self.connections += 1;
        self.descriptors += CONNECTION_DESCRIPTORS;
    }

    /// A connection becomes an endpoint.
    pub(super) fn add_endpoint(&mut self, uid: u32) -> Result<(), ControlError> {
        let limit = self.endpoints_max;
        let usage = self.by_uid.entry(uid).or_default();
        if usage.endpoints >= limit {
            let text = format!("a user may have {limit} endpoints (max_endpoints_per_user)");
            return Err(ControlError::Limit(text));
        }
        usage.endpoints += 1;
        self.endpoints += 1;
        Ok(())
    }

    /// A connection is gone, and with it the endpoint if it was one.
    pub(super) fn remove_connection(&mut self, uid: u32, was_endpoint: bool) {
        self.endpoints -= u64::from(was_endpoint);
        self.connections -= 1;
        self.descriptors -= CONNECTION_DESCRIPTORS;
        self.change(uid, |usage| {
            usage.connections -= 1;
            usage.endpoints -= u32::from(was_endpoint);
        });
    }

    /// Whether a user may have so many channels more, of so many bytes together.
    pub(super) fn check_room(&self, uid: u32, channels: usize, bytes: u64) -> Result<(), ControlError> {
        let usage = self.by_uid.get(&uid).copied().unwrap_or_default();
        if !self.has_descriptors(usage, CHANNEL_DESCRIPTORS * channels as u64) {
            let text = "the daemon's descriptors are scarce, and a user leaves others as many as it has (ulimit -n)";
            return Err(ControlError::Limit(text.into()));
        }
        if usage.channel_bytes + bytes > self.channel_bytes_max {
            let limit = self.channel_bytes_max >> 20;
            let text = format!("a user's channels may have {limit} MiB (max_channel_bytes_per_user)");
            return Err(ControlError::Limit(text));
        }
        Ok(())
    }

    /// A channel is granted.
    pub(super) fn add_channel(&mut self, uid: u32, bytes: u64) {
        let usage = self.by_uid.entry(uid).or_default();
        usage.channels += 1;
        usage.channel_bytes += bytes;
        self.descriptors += CHANNEL_DESCRIPTORS;
    }

    /// A channel is gone.
    pub(super) fn remove_channel(&mut self, uid: u32, bytes: u64) {
        self.descriptors -= CHANNEL_DESCRIPTORS;
        self.change(uid, |usage| {
            usage.channels -= 1;
            usage.channel_bytes -= bytes;
        });
    }

    /// Whether a user of whom there is so much may have so many descriptors more.
    fn has_descriptors(&self, usage: Usage, more: u64) -> bool {
        let Usage { connections, channels, .. } = usage;
        let own = u64::from(connections) * CONNECTION_DESCRIPTORS + u64::from(channels) * CHANNEL_DESCRIPTORS;
        leaves_room(own + more, self.descriptors + more, self.descriptors_max)
    }

    fn change(&mut self, uid: u32, change: impl FnOnce(&mut Usage)) {
        let usage = self.by_uid.get_mut(&uid).expect("a user with connections or channels has an entry");
        change(usage);
        if *usage == Usage::default() {
            self.by_uid.remove(&uid);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_has_a_limited_number_of_endpoints() {
        let mut users = Users::new(1, 100, u64::MAX);
        assert!(users.add_connection(7) && users.add_connection(7));
        assert_eq!(users.add_endpoint(7), Ok(()));
        assert!(matches!(users.add_endpoint(7), Err(ControlError::Limit(_))));
        users.remove_connection(7, true);
        assert_eq!((users.endpoints(), users.add_endpoint(7)), (0, Ok(())));
        users.remove_connection(7, true);
        assert!(users.by_uid.is_empty() && users.endpoints() == 0);
    }

    #[test]
    fn a_user_has_a_limited_number_of_connections_and_leaves_the_others_to_others() {
        let mut users = Users::new(1, 100, u64::MAX);
        for _ in 0..=UNATTACHED_OF_USER_MAX {
            assert!(users.add_connection(7));
        }
        assert!(!users.add_connection(7));
        assert!(users.add_connection(8));
        users.remove_connection(7, false);
        assert!(users.add_connection(7));
    }

    #[test]
    fn memory_counts_until_its_channel_is_gone() {
        let mut users = Users::new(1, 100, u64::MAX);
        assert!(users.add_connection(7));
        assert_eq!(users.check_room(7, 1, 100), Ok(()));
        users.add_channel(7, 60);
        assert!(matches!(users.check_room(7, 1, 41), Err(ControlError::Limit(_))));
        users.remove_connection(7, false);
        assert!(users.check_room(7, 1, 41).is_err(), "the memory is not free yet");
        users.remove_channel(7, 60);
        assert_eq!(users.check_room(7, 1, 100), Ok(()));
        assert!(users.by_uid.is_empty());
    }

    #[test]
    fn no_user_takes_all_connections_or_all_descriptors() {
        let mut users = Users::new(u32::MAX - 256, 1_000, u64::MAX);
        let taken = (0..CONNECTIONS_MAX).take_while(|_| users.add_connection(7)).count() as u64;
        assert_eq!(taken, CONNECTIONS_MAX / 2);
        assert!(users.add_connection(8));
        let mut users = Users::new(1_000, 1_000, 100);
        let taken = (0..100).take_while(|_| users.add_connection(7)).count();
        assert!((20..25).contains(&taken), "{taken}");
        assert!(matches!(users.check_room(7, 1, 1), Err(ControlError::Limit(_))));
        assert!(users.add_connection(8) && users.check_room(8, 1, 1).is_ok());
    }
}
