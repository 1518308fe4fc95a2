//! Datagrams on their way from the core to the socket: a few slots that are made once.

use std::net::SocketAddr;

use super::session::MAX_PACKET;

/// Which of the session's two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Rtp,
    Rtcp,
}

/// A datagram to send.
#[derive(Debug)]
pub struct Transmit<'a> {
    pub channel: Channel,
    pub to: SocketAddr,
    pub bytes: &'a [u8],
}

/// Datagrams between `handle_*` and `poll_transmit`: at most one of RTP and one of RTCP at a time.
pub(super) struct Outbox {
    slots: Box<[Slot; SLOTS]>,
    first: usize,
    count: usize,
}

const SLOTS: usize = 3;

struct Slot {
    channel: Channel,
    to: SocketAddr,
    length: usize,
    bytes: [u8; MAX_PACKET],
}

impl Default for Outbox {
    fn default() -> Self {
        let empty = || Slot { channel: Channel::Rtp, to: SocketAddr::from(([0, 0, 0, 0], 0)), length: 0, bytes: [0; MAX_PACKET] };
        Self { slots: Box::new(std::array::from_fn(|_| empty())), first: 0, count: 0 }
    }
}

impl Outbox {
    pub(super) fn push(&mut self, channel: Channel, to: SocketAddr, write: impl FnOnce(&mut [u8]) -> Option<usize>) {
        let at = (self.first + self.count) % SLOTS;
        if let Some(slot) = self.slots.get_mut(at).filter(|_| self.count < SLOTS)
            && let Some(length) = write(&mut slot.bytes)
        {
            (slot.channel, slot.to, slot.length) = (channel, to, length);
            self.count += 1;
        }
    }

    pub(super) fn pop(&mut self) -> Option<Transmit<'_>> {
        self.count = self.count.checked_sub(1)?;
        let at = self.first;
        self.first = (at + 1) % SLOTS;
        let slot = self.slots.get(at)?;
        Some(Transmit { channel: slot.channel, to: slot.to, bytes: slot.bytes.get(..slot.length)? })
    }
}
