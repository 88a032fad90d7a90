//! Where one really is (B-04), without a clock.
//!
//! A board gives a guest who is not on the list a private topic of his own instead of the cluster's, and says nothing. So
//! he opens that private topic himself first, the twin, with replay. A *fence* line that comes back on the twin proves that
//! the twin is open. Then he opens the cluster's topic, sends a *probe* on it and, after it on the same connection, another
//! fence on the twin. If both topics are one, the probe arrives on the twin too; if the fence comes back without it, they are two.

/// A line longer than this is not one of ours, bytes.
const LINE_BYTES: usize = 128;
const PROBE: &str = "~p2p-probe";
const FENCE: &str = "~p2p-fence";

/// One try to find out, with a nonce that nobody else can know.
#[derive(Debug)]
pub(crate) struct Probe {
    nonce: String,
    partial: Vec<u8>,
    skipping: bool,
}

/// What came back on the twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Echo {
    /// The fence of this number: the twin is open, and what was sent on it before has been delivered.
    Fence(u32),
    /// The probe: the cluster's topic is the twin.
    Probe,
}

impl Probe {
    /// A try; `nonce` must be fresh random bytes.
    pub(crate) fn new(nonce: [u8; 16]) -> Self {
        let nonce = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { nonce, partial: Vec::new(), skipping: false }
    }

    /// The line to send on the cluster's topic. Everybody there ignores it.
    pub(crate) fn probe_line(&self) -> String {
        format!("{PROBE} {}\n", self.nonce)
    }

    /// The line to send on the twin.
    pub(crate) fn fence_line(&self, number: u32) -> String {
        format!("{FENCE} {} {number}\n", self.nonce)
    }

    /// Takes bytes that came on the twin. A user's other processes may be there too; their lines are skipped.
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

    fn echoes(probe: &mut Probe, bytes: &[u8]) -> Vec<Echo> {
        let mut echoes = Vec::new();
        probe.feed(bytes, |echo| echoes.push(echo));
        echoes
    }

    #[test]
    fn only_ones_own_nonce_counts() {
        let mut mine = Probe::new([1; 16]);
        let other = Probe::new([2; 16]);
        let text = format!("{}{}~p2p1 abc\n", other.probe_line(), other.fence_line(1));
        assert_eq!(echoes(&mut mine, text.as_bytes()), []);
        let text = format!("{}{}{}", mine.fence_line(1), mine.probe_line(), mine.fence_line(2));
        assert_eq!(echoes(&mut mine, text.as_bytes()), [Echo::Fence(1), Echo::Probe, Echo::Fence(2)]);
    }

    #[test]
    fn pieces_are_joined_and_floods_are_skipped() {
        let mut probe = Probe::new([3; 16]);
        let line = probe.probe_line();
        let (head, tail) = line.as_bytes().split_at(9);
        assert_eq!(echoes(&mut probe, head), []);
        assert_eq!(echoes(&mut probe, tail), [Echo::Probe]);
        assert_eq!(echoes(&mut probe, &vec![b'x'; 100_000]), []);
        assert!(probe.partial.len() <= LINE_BYTES);
        assert_eq!(echoes(&mut probe, format!("\n{line}").as_bytes()), [Echo::Probe]);
    }
}
