//! Gives what is heard on a leg to whoever keeps it, in pieces of 100 ms. The tick never waits: what finds no room is lost and counted.
//!
//! Lives in the ear (`ear.rs`), which decodes. Not here: files.

use tokio::sync::mpsc;

/// Samples of one piece, at 8 kHz.
const PIECE: usize = 800;

pub struct Recorder {
    to: mpsc::Sender<Vec<i16>>,
    piece: Vec<i16>,
}

impl Recorder {
    pub fn new(to: mpsc::Sender<Vec<i16>>) -> Self {
        Self { to, piece: Vec::with_capacity(PIECE) }
    }

    pub fn push(&mut self, samples: &[i16]) {
        self.piece.extend_from_slice(samples);
        if self.piece.len() >= PIECE {
            self.hand_over(Vec::with_capacity(PIECE));
        }
    }

    fn hand_over(&mut self, next: Vec<i16>) {
        let piece = std::mem::replace(&mut self.piece, next);
        if !piece.is_empty() && self.to.try_send(piece).is_err() {
            metrics::counter!("plugtone_media_recorded_lost_total").increment(1);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.hand_over(Vec::new());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_samples_come_in_their_order_and_a_slow_taker_holds_up_nobody() {
        let (to, mut from) = mpsc::channel(2);
        let mut recorder = Recorder::new(to);
        let samples: Vec<i16> = (0..1700).collect();
        samples.chunks(160).for_each(|frame| recorder.push(frame));
        drop(recorder);
        let got: Vec<i16> = std::iter::from_fn(|| from.try_recv().ok()).flatten().collect();
        assert_eq!(got, samples[..1600], "two pieces have room; the third is lost");
    }
}
