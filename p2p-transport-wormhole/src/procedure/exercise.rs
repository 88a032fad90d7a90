//! The procedure under arbitrary input: the entry for fuzzing.

use std::collections::BTreeSet;
use std::time::Duration;

use p2p_proto::link::TransitKey;

use super::{CONNECTIONS, Choice, ConnectionId, Input, Lines, Outbox, Output, Side, Way};

/// Lets `script` open, feed and end connections of one set-up, and checks after each step what must always hold: only
/// Transit's fixed lines are said, only on open connections, at most one is chosen, and none is held beyond the bounds.
///
/// `script` is a list of operations of two bytes, the connection and the operation, with their arguments: open (three ways),
/// end, wait, the correct lines (so that deep states are reached), or a length and that many bytes of the script itself. The
/// first byte chooses the side, and whether direct connections are expected.
///
/// # Panics
/// When one of these does not hold; never otherwise, whatever `script` is.
pub fn exercise(script: &[u8]) {
    let mut script = Script(script);
    let setting = script.byte();
    let side = if setting & 1 == 0 { Side::Leader } else { Side::Follower };
    let lines = Lines::new(&TransitKey([7; 32]), side, [9; 8]);
    let mut choice = Choice::new(side, lines.clone(), Duration::from_millis(750), setting & 2 == 0);
    let mut world = World { lines: lines.clone(), open: BTreeSet::new(), chosen: false };
    let mut now = Duration::ZERO;
    while !script.0.is_empty() {
        let id = ConnectionId::from(script.byte());
        let operation = script.byte();
        let piece;
        let input = match operation % 8 {
            0 => world.opened(id, Way::Dialled),
            1 => world.opened(id, Way::Accepted),
            2 => world.opened(id, Way::Relayed),
            3 => {
                world.open.remove(&id);
                Input::Ended(id)
            }
            4 => {
                now += Duration::from_millis(u64::from(operation));
                Input::Tick
            }
            5 => Input::Bytes(id, &lines.theirs),
            6 => Input::Bytes(id, [Lines::RELAYED, Lines::GO, Lines::NEVERMIND][usize::from(operation) / 8 % 3]),
            _ => {
                piece = script.bytes();
                Input::Bytes(id, piece)
            }
        };
        let given = if let Input::Bytes(_, bytes) = input { bytes.len() } else { 0 };
        let mut out = Outbox::default();
        choice.handle(now, input, &mut out);
        world.check(&choice, &out, given);
    }
}

struct World {
    lines: Lines,
    open: BTreeSet<ConnectionId>,
    chosen: bool,
}

impl World {
    fn opened<'a>(&mut self, id: ConnectionId, way: Way) -> Input<'a> {
        // After the choice a driver opens nothing; names are never used twice while open.
        if self.chosen || !self.open.insert(id) { Input::Tick } else { Input::Opened(id, way) }
    }

    fn check(&mut self, choice: &Choice, out: &Outbox, given: usize) {
        for output in &out.outputs {
            assert!(!self.chosen, "something was done after the choice");
            match output {
                Output::Send(id, line) => {
                    assert!(self.open.contains(id), "said on a closed connection");
                    let fixed = [&self.lines.ours, &self.lines.relay, Lines::GO, Lines::NEVERMIND];
                    assert!(fixed.contains(&line.as_slice()), "said what is not a line of Transit's");
                }
                Output::Close(id, _) => assert!(self.open.remove(id), "closed twice"),
                Output::Chosen { id, rest } => {
                    assert!(self.open.contains(id), "chose a closed connection");
                    assert!(rest.len() <= given, "made bytes up");
                    self.chosen = true;
                }
            }
        }
        assert_eq!(choice.is_done(), self.chosen);
        assert!(choice.len() <= CONNECTIONS);
    }
}

struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte()).min(self.0.len());
        let (piece, rest) = self.0.split_at(length);
        self.0 = rest;
        piece
    }
}
