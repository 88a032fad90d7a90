//! Where one really is (B-04), without a clock.
//!
//! A board gives a guest who is not on the list a private topic of his own instead of the cluster's, and says nothing. So
//! he opens that private topic himself first, the twin. Both are opened with replay, which gives back what one wrote oneself:
//!
//! 1. A *fence* line comes back on the twin: the twin is open. The cluster's topic is opened only now.
//! 2. A *probe* line comes back on the cluster's topic: that is open, and the server has handed the probe to all who are there.
//! 3. A second fence comes back on the twin. If both topics are one, the probe went through it before that fence; if the fence
//!    comes back without the probe, they are two.
//!
//! Each step waits for what the server did, because it does it late: pico.sh says yes to a command and then asks its
//! database who the user is, before it opens anything.
#![warn(clippy::disallowed_methods)]

/// A line longer than this is not one of ours, bytes.
const LINE_BYTES: usize = 128;
const PROBE: &str = "~p2p-probe";
const FENCE: &str = "~p2p-fence";

/// One try to find out, with a nonce that nobody else can know.
#[derive(Debug)]
pub(crate) struct Probe {
    nonce: String,
}

/// Looks for a try's own lines in the bytes of one topic.
#[derive(Debug)]
pub(crate) struct Echoes {
    nonce: String,
    partial: Vec<u8>,
    skipping: bool,
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// The fence of this number.
    Fence(u32),
    /// The probe.
    Probe,
}

impl Probe {
    /// A try; `nonce` must be fresh random bytes.
    pub(crate) fn new(nonce: [u8; 16]) -> Self {
        Self { nonce: nonce.iter().map(|byte| format!("{byte:02x}")).collect() }
    }

    /// The line to send on the cluster's topic. Everybody else there ignores it.
    pub(crate) fn probe_line(&self) -> String {
        format!("{PROBE} {}\n", self.nonce)
    }

    /// The line to send on the twin.
    pub(crate) fn fence_line(&self, number: u32) -> String {
        format!("{FENCE} {} {number}\n", self.nonce)
    }

    /// A reader for one topic.
    pub(crate) fn echoes(&self) -> Echoes {
        Echoes { nonce: self.nonce.clone(), partial: Vec::new(), skipping: false }
    }
}

impl Echoes {
    /// Takes the next bytes of the topic. Other lines, also those of the same user's other processes, are skipped.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut each: impl FnMut(Echo)) {
        for &byte in bytes {
            if byte == b'\n' {
                if let Some(echo) = self.read(&self.partial).filter(|_| !self.skipping) {
                    each(echo);
                }
                self.partial.clear();
                self.skipping = false;
            } else if self.partial.len() < LINE_BYTES {
                self.partial.push(byte);
            } else {
                self.skipping = true;
            }
        }
    }

    fn read(&self, line: &[u8]) -> Option<Echo> {
        let mut words = std::str::from_utf8(line).ok()?.split_whitespace();
        let kind = words.next()?;
        words.next().filter(|nonce| *nonce == self.nonce)?;
        match kind {
            PROBE => Some(Echo::Probe),
            FENCE => words.next()?.parse().ok().map(Echo::Fence),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(echoes: &mut Echoes, bytes: &[u8]) -> Vec<Echo> {
        let mut found = Vec::new();
        echoes.feed(bytes, |echo| found.push(echo));
        found
    }

    #[test]
    fn only_ones_own_nonce_counts() {
        let (mine, other) = (Probe::new([1; 16]), Probe::new([2; 16]));
        let mut echoes = mine.echoes();
        let text = format!("{}{}~p2p1 abc\n", other.probe_line(), other.fence_line(1));
        assert_eq!(found(&mut echoes, text.as_bytes()), []);
        let text = format!("{}{}{}", mine.fence_line(1), mine.probe_line(), mine.fence_line(2));
        assert_eq!(found(&mut echoes, text.as_bytes()), [Echo::Fence(1), Echo::Probe, Echo::Fence(2)]);
    }

    #[test]
    fn pieces_are_joined_and_floods_are_skipped() {
        let probe = Probe::new([3; 16]);
        let mut echoes = probe.echoes();
        let line = probe.probe_line();
        let (head, tail) = line.as_bytes().split_at(9);
        assert_eq!(found(&mut echoes, head), []);
        assert_eq!(found(&mut echoes, tail), [Echo::Probe]);
        assert_eq!(found(&mut echoes, &vec![b'x'; 100_000]), []);
        assert!(echoes.partial.len() <= LINE_BYTES);
        assert_eq!(found(&mut echoes, format!("\n{line}").as_bytes()), [Echo::Probe]);
    }
}
