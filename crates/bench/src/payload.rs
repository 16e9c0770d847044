//! What is published: bytes of a kind, with the run that they belong to and the
//! moment in which they were meant to be sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut as _, Bytes, BytesMut};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// Bytes of a payload that say whose and when.
const STAMP_BYTES: usize = 16;
/// Payloads of different content are used in turn: as many as have so many bytes
/// together, at least two.
const VARIANTS: usize = 64;
const VARIANT_BYTES: usize = 4 << 20;

/// How compressible payloads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PayloadKind {
    /// As services send them: fields of a few kinds, in JSON.
    Json,
    /// As encrypted or compressed data: nothing can be saved.
    Random,
}

/// Makes the payloads of one run.
#[derive(Clone, Debug)]
pub struct Payloads {
    run: u64,
    begun: Instant,
    variants: Arc<[Vec<u8>]>,
    next: usize,
}

/// What a payload says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    run: u64,
    /// When it was meant to be sent, from the run's beginning.
    pub intended: Duration,
}

impl Payloads {
    /// The least size.
    pub const LEAST_BYTES: usize = STAMP_BYTES;

    /// Of so many bytes, at least [`Self::LEAST_BYTES`], for a run that begins now.
    pub fn new(kind: PayloadKind, bytes: usize) -> Self {
        let mut random = SmallRng::seed_from_u64(7);
        let variants = (VARIANT_BYTES / bytes.max(1)).clamp(2, VARIANTS);
        let variants = (0..variants)
            .map(|_| filling(kind, bytes.saturating_sub(STAMP_BYTES), &mut random))
            .collect();
        Self { run: rand::random(), begun: Instant::now(), variants, next: 0 }
    }

    /// When the run began: what stamps count from.
    pub const fn begun(&self) -> Instant {
        self.begun
    }

    /// The next one, meant to be sent at a moment.
    pub fn make(&mut self, intended: Instant) -> Bytes {
        let filling = &self.variants[self.next];
        self.next = (self.next + 1) % self.variants.len();
        let mut payload = BytesMut::with_capacity(STAMP_BYTES + filling.len());
        let since = intended.saturating_duration_since(self.begun).as_nanos();
        payload.put_u64(self.run);
        payload.put_u64(u64::try_from(since).unwrap_or(u64::MAX));
        payload.extend_from_slice(filling);
        payload.freeze()
    }

    /// What a payload says, if it is of this run.
    pub fn stamp_of(&self, payload: &[u8]) -> Option<Stamp> {
        let (run, rest) = payload.split_first_chunk::<8>()?;
        let nanoseconds = rest.first_chunk::<8>()?;
        let run = u64::from_be_bytes(*run);
        let intended = Duration::from_nanos(u64::from_be_bytes(*nanoseconds));
        (run == self.run).then_some(Stamp { run, intended })
    }

    /// How long ago a payload of this run was meant to be sent.
    pub fn age_of(&self, payload: &[u8], now: Instant) -> Option<Duration> {
        let stamp = self.stamp_of(payload)?;
        Some(now.saturating_duration_since(self.begun).saturating_sub(stamp.intended))
    }
}

fn filling(kind: PayloadKind, bytes: usize, random: &mut SmallRng) -> Vec<u8> {
    let mut filling = Vec::with_capacity(bytes + 128);
    while filling.len() < bytes {
        match kind {
            PayloadKind::Random => filling.extend_from_slice(&random.random::<[u8; 16]>()),
            PayloadKind::Json => {
                let city = ["berlin", "chicago", "nairobi", "osaka"][random.random_range(0..4)];
                let state = ["open", "held", "sold"][random.random_range(0..3)];
                let (id, cents) = (random.random::<u32>(), random.random_range(100..99_999));
                let line = format!(
                    "{{\"order\":{id},\"city\":\"{city}\",\"price\":{}.{:02},\"state\":\"{state}\"}},",
                    cents / 100,
                    cents % 100
                );
                filling.extend_from_slice(line.as_bytes());
            }
        }
    }
    filling.truncate(bytes);
    filling
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_tells_its_run_and_its_moment() {
        for kind in [PayloadKind::Json, PayloadKind::Random] {
            let (mut ours, mut others) = (Payloads::new(kind, 128), Payloads::new(kind, 128));
            let intended = ours.begun() + Duration::from_millis(5);
            let payload = ours.make(intended);
            assert_eq!(payload.len(), 128);
            let age = ours.age_of(&payload, intended + Duration::from_millis(3));
            assert_eq!(age, Some(Duration::from_millis(3)));
            assert_eq!(ours.stamp_of(&others.make(intended)), None);
            assert_eq!(ours.stamp_of(b"short"), None);
        }
    }
}
