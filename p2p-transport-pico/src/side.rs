//! Side topics (T-02): where the server shows by whose login somebody is there.
//!
//! Each is a connection of its own, with the topic in one channel and `ls` in others: what happens there cannot hold up the cluster's topic, and
//! the server closes it when the guest leaves, which then closes nothing else.

use std::io;
use std::sync::OnceLock;
use std::time::Duration;

use async_io::Timer;
use async_trait::async_trait;
use p2p_proto::board::{Sighting, Watch, Witness};
use p2p_proto::ids::UserName;

use crate::call::Call;
use crate::config::PicoConfig;
use crate::door;
use crate::listing::{ListedClient, Listing};
use crate::session::CommandOutput;
use crate::wire::{Channel, Wire};

/// How often the owner looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Looks after which a topic that is not there counts as refused: the server opens it a moment after it says so.
const OPENING_LOOKS: usize = 20;
const READ_BYTES: usize = 16 * 1024;
/// Reads in a row before the answer gets its turn.
const READS_PER_PASS: usize = 16;

/// A server's word.
pub(crate) struct SideTopics {
    config: PicoConfig,
    /// Why this server's word is not believed, once that is known.
    unbelieved: OnceLock<String>,
}

struct SideTopic {
    wire: Wire,
    channel: Channel,
    topic: String,
    guest: UserName,
    /// The owner's own session there.
    own: String,
}

impl SideTopics {
    pub(crate) fn new(config: PicoConfig) -> Self {
        Self { config, unbelieved: OnceLock::new() }
    }

    async fn enter(&self, command: &str) -> Result<(Wire, Channel), Sighting> {
        let wire = door::enter(&self.config).await.map_err(|fault| Sighting::Unavailable(fault.to_string()))?;
        let channel = wire.start(command).await.map_err(|fault| lost(&fault))?;
        Ok((wire, channel))
    }

    fn unbelieved(&self, why: &str) -> Sighting {
        Sighting::Unavailable(self.unbelieved.get_or_init(|| why.to_owned()).clone())
    }
}

#[async_trait]
impl Witness for SideTopics {
    async fn open(&self, topic: &str, guest: &UserName) -> Result<Box<dyn Watch>, Sighting> {
        if let Some(why) = self.unbelieved.get() {
            return Err(Sighting::Unavailable(why.clone()));
        }
        let (wire, channel) = self.enter(&format!("pipe {topic} -a {guest} -c")).await?;
        if !self.config.believe_logins && !wire.is_hub() {
            return Err(self.unbelieved(
                "this board is not a hub: a login there proves what others' server makes of it, which is not enough to let a machine in",
            ));
        }
        let mut side = SideTopic { wire, channel, topic: topic.to_owned(), guest: guest.clone(), own: String::new() };
        for _ in 0..OPENING_LOOKS {
            if let Some(own) = opened(&side.look().await?, topic, guest)? {
                side.own = own;
                return Ok(Box::new(side));
            }
            Timer::after(LOOK_EVERY).await;
        }
        Err(Sighting::Unavailable(format!("the board did not open {topic} for {guest} alone")))
    }

    async fn attend(&self, topic: &str) {
        let Ok((wire, mut channel)) = self.enter(&format!("pipe {topic} -c")).await else { return };
        // What is said there is for nobody.
        while let Ok(false) = drain(&mut channel) {
            if !channel.has_unread() {
                wire.ready().await;
            }
        }
    }
}

#[async_trait]
impl Watch for SideTopic {
    async fn sighting(&mut self) -> Sighting {
        loop {
            let listing = match self.look().await {
                Ok(listing) => listing,
                Err(seen) => return seen,
            };
            if let Some(seen) = seen(&listing, &self.topic, &self.guest, &self.own) {
                return seen;
            }
            Timer::after(LOOK_EVERY).await;
        }
    }
}

impl SideTopic {
    async fn look(&mut self) -> Result<Listing, Sighting> {
        let output = self.ls().await.map_err(|fault| lost(&fault))?;
        if output.status != 0 {
            return Err(Sighting::Unavailable(format!("the board does not list topics: {}", output.stderr.trim())));
        }
        Listing::read(&output).map_err(|fault| Sighting::Odd(fault.to_string()))
    }

    async fn ls(&mut self) -> io::Result<CommandOutput> {
        let mut call = Call::new("ls");
        loop {
            // Unread, it would hold up the answer.
            if drain(&mut self.channel)? {
                return Err(io::Error::other("it closed the side topic"));
            }
            match call.step(&self.wire)? {
                Some(output) => return Ok(output),
                None if call.has_unread() || self.channel.has_unread() => {}
                None => self.wire.ready().await,
            }
        }
    }
}

/// Drops what has come; whether the channel is at its end.
fn drain(channel: &mut Channel) -> io::Result<bool> {
    let mut buffer = [0; READ_BYTES];
    for _ in 0..READS_PER_PASS {
        let read = (channel.read(&mut buffer)?, channel.read_stderr(&mut buffer)?);
        if !matches!(read, (Some(1..), _) | (_, Some(1..))) {
            break;
        }
    }
    Ok(channel.eof())
}

fn lost(fault: &io::Error) -> Sighting {
    Sighting::Unavailable(format!("the connection to the board broke: {fault}"))
}

/// The owner's own session, once the topic is there with nobody but its guest on its list.
fn opened(listing: &Listing, topic: &str, guest: &UserName) -> Result<Option<String>, Sighting> {
    let Some(listed) = listing.topic(topic) else { return Ok(None) };
    match &listed.clients().collect::<Vec<_>>()[..] {
        [] => Ok(None),
        [own] if own.is(owner(topic)) => {
            let alone = listed.access.as_deref().is_some_and(|access| access == [guest.as_str()]);
            Ok(alone.then(|| own.id.clone()))
        }
        others => Err(Sighting::Others(names(others.iter().copied()))),
    }
}

/// Who is there besides the owner's own session, if anybody is.
fn seen(listing: &Listing, topic: &str, guest: &UserName, own: &str) -> Option<Sighting> {
    let Some(listed) = listing.topic(topic) else {
        return Some(Sighting::Odd(format!("{topic} is not listed any more")));
    };
    if !listed.clients().any(|client| client.id == own && client.is(owner(topic))) {
        return Some(Sighting::Odd(format!("one's own line is missing in {topic}")));
    }
    let others: Vec<&ListedClient> = listed.clients().filter(|client| client.id != own).collect();
    match others[..] {
        [] => None,
        [one] if one.is(guest.as_str()) => Some(Sighting::Guest),
        _ => Some(Sighting::Others(names(others.into_iter()))),
    }
}

fn owner(topic: &str) -> &str {
    topic.split('/').next().unwrap_or_default()
}

fn names<'a>(clients: impl Iterator<Item = &'a ListedClient>) -> Vec<String> {
    clients.map(|client| client.user.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: &str = "alice/friends/admit/ab12";
    const OWN: &str = "  - 0a (alice@1.1.1.1:1)\r\n";

    fn listing(lines: &[&str]) -> Listing {
        let text = format!("Channel Information\r\n- {TOPIC}: (Access List: bob)\r\n  Pipes:\r\n{}", lines.concat());
        Listing::parse(&text).unwrap()
    }

    fn bob() -> UserName {
        "bob".parse().unwrap()
    }

    #[test]
    fn it_is_open_when_it_has_its_list_and_its_owner_alone() {
        assert_eq!(opened(&listing(&[OWN]), TOPIC, &bob()), Ok(Some("0a".to_owned())));
        assert_eq!(opened(&listing(&[]), TOPIC, &bob()), Ok(None));
        assert_eq!(opened(&Listing::default(), TOPIC, &bob()), Ok(None));
        assert_eq!(opened(&listing(&[OWN]), TOPIC, &"carol".parse().unwrap()), Ok(None));
        let crowded = listing(&[OWN, "  - 0b (bob@1.1.1.1:2)\r\n"]);
        assert!(matches!(opened(&crowded, TOPIC, &bob()), Err(Sighting::Others(_))));
        let taken = listing(&["  - 0b (eve@1.1.1.1:2)\r\n"]);
        assert!(matches!(opened(&taken, TOPIC, &bob()), Err(Sighting::Others(_))));
    }

    #[test]
    fn only_the_guest_alone_counts() {
        let look = |lines: &[&str]| seen(&listing(lines), TOPIC, &bob(), "0a");
        assert_eq!(look(&[OWN]), None);
        assert_eq!(look(&[OWN, "  - 0b (bob@1.1.1.1:2)\r\n"]), Some(Sighting::Guest));
        // pico.sh shows the name of a key.
        assert_eq!(look(&[OWN, "  - 0b (bob-laptop@1.1.1.1:2)\r\n"]), Some(Sighting::Guest));
        for others in [
            &["  - 0b (eve@1.1.1.1:2)\r\n"][..],
            &["  - 0b (bobby@1.1.1.1:2)\r\n"],
            &["  - 0b (public@1.1.1.1:2)\r\n"],
            &["  - 0b (bob@1.1.1.1:2)\r\n", "  - 0c (bob@1.1.1.1:3)\r\n"],
            &["  - 0b (bob@1.1.1.1:2)\r\n", "  Subs:\r\n", "  - 0c (eve@1.1.1.1:3)\r\n"],
            // Another session of the owner's is somebody else, too.
            &["  - 0c (alice@1.1.1.1:3)\r\n"],
        ] {
            let lines: Vec<&str> = std::iter::once(OWN).chain(others.iter().copied()).collect();
            assert!(matches!(look(&lines), Some(Sighting::Others(_))), "{others:?}");
        }
        assert!(matches!(look(&["  - 0b (bob@1.1.1.1:2)\r\n"]), Some(Sighting::Odd(_))));
        assert!(matches!(seen(&Listing::default(), TOPIC, &bob(), "0a"), Some(Sighting::Odd(_))));
    }

    #[test]
    fn who_imitates_lines_proves_nothing() {
        // What a key id with line ends in it can make of `ls`: a second header, or lines behind one's own.
        let header = format!("- {TOPIC}: (Access List: bob)\r\n");
        let twice = format!("{header}  Pipes:\r\n{OWN}  - 0b (bob@1.1.1.1:2)\r\n{header}  Pipes:\r\n");
        assert!(Listing::parse(&twice).is_err());
        let behind = [
            OWN,
            "  - 0b (mallory-x@1.1.1.1:1)\r\n",
            "  - 0c (bob@1.1.1.1:2)\r\n",
            "- alice/other:\r\n",
            "  Pipes:\r\n",
        ];
        assert!(matches!(seen(&listing(&behind), TOPIC, &bob(), "0a"), Some(Sighting::Others(_))));
    }

    #[test]
    fn the_owners_other_machine_is_a_guest_in_her_topic() {
        let alice: UserName = "alice".parse().unwrap();
        let both = listing(&[OWN, "  - 0b (alice@1.1.1.1:2)\r\n"]);
        assert_eq!(seen(&both, TOPIC, &alice, "0a"), Some(Sighting::Guest));
    }
}
