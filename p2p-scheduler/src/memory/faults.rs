//! What a board does to lines, by a seed. Pure.

use p2p_proto::board::Line;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

/// How often a board does what to a line on its way to one reader, in a thousand. The rest passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// It is lost.
    pub lose: u32,
    /// It comes twice.
    pub repeat: u32,
    /// It is held back until up to eight later lines have passed. Without later lines it stays held: that is a loss.
    pub hold: u32,
}

/// Does it to the lines for one reader. The same seed does the same to the same lines.
#[derive(Debug)]
pub struct Mangler {
    faults: Faults,
    rng: ChaCha20Rng,
    /// Lines held back, and how many others must pass first.
    held: Vec<(u32, Line)>,
}

/// How many lines may overtake a held one.
const OVERTAKEN: u32 = 8;

impl Mangler {
    /// Faults by `seed`; readers of one board should have different ones.
    pub fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, rng: ChaCha20Rng::seed_from_u64(seed), held: Vec::new() }
    }

    /// What reaches the reader now, in order.
    pub fn pass(&mut self, line: Line) -> Vec<Line> {
        let mut now = Vec::with_capacity(1);
        for (left, _) in &mut self.held {
            *left -= 1;
        }
        let Faults { lose, repeat, hold } = self.faults;
        let dice = if lose + repeat + hold == 0 { 1000 } else { self.rng.next_u32() % 1000 };
        match dice {
            _ if dice < lose => {}
            _ if dice < lose + repeat => now.extend([line.clone(), line]),
            _ if dice < lose + repeat + hold => self.held.push((1 + self.rng.next_u32() % OVERTAKEN, line)),
            _ => now.push(line),
        }
        now.extend(self.held.extract_if(.., |(left, _)| *left == 0).map(|(_, line)| line));
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_proto::board::message::Seek;
    use p2p_proto::board::{Envelope, Message};

    fn line(sequence: u64) -> Line {
        let message = Message::Seek(Seek { runtime: String::new(), answers: 1 });
        Line::encode(&Envelope { from: "bob@h:1".parse().unwrap(), sequence, time: 0, message }).unwrap()
    }

    fn through(faults: Faults, seed: u64) -> Vec<u64> {
        let mut mangler = Mangler::new(faults, seed);
        (0..1000).flat_map(|n| mangler.pass(line(n))).map(|line| line.decode().unwrap().sequence).collect()
    }

    #[test]
    fn without_faults_every_line_passes_in_order() {
        assert_eq!(through(Faults::default(), 1), (0..1000).collect::<Vec<_>>());
    }

    #[test]
    fn a_seed_decides_what_is_lost_repeated_and_late() {
        let faults = Faults { lose: 100, repeat: 100, hold: 200 };
        let passed = through(faults, 7);
        assert_eq!(passed, through(faults, 7));
        assert_ne!(passed, through(faults, 8));
        let distinct: std::collections::BTreeSet<_> = passed.iter().collect();
        assert!((850..950).contains(&distinct.len()), "{} of 1000 lines came", distinct.len());
        assert!(passed.len() > distinct.len(), "none came twice");
        assert!(!passed.is_sorted(), "none came late");
    }
}
