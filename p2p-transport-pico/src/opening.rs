//! Opening the topic: for the host at once, for the owner's other processes while she hosts, for a guest with proof that it is the
//! cluster's and not his twin (B-04).

use p2p_proto::board::line::Lines;

use crate::board::Topic;
use crate::call::Call;
use crate::listing::Listing;
use crate::probe::{Echo, Echoes, Probe};
use crate::visit::Ended;
use crate::wire::{Channel, Wire};

/// How often another process of the same user may close the twin before that counts as a failure: the server closes the last
/// one who is left on a topic.
const TWIN_TRIES: usize = 3;
const READ_BYTES: usize = 32 * 1024;

/// A topic that is open.
pub(crate) struct Opened {
    pub(crate) channel: Channel,
    /// What has come of its next line so far.
    pub(crate) lines: Lines,
    /// The guest's private topic, to be closed.
    pub(crate) twin: Option<Channel>,
}

/// Opens the topic: two round trips for the owner, two more for a process of hers that waits for the host, four for a guest.
pub(crate) async fn open(topic: &Topic, wire: &Wire) -> Result<Opened, Ended> {
    let Some(twin) = &topic.twin else {
        if topic.after_host && !is_hosted(topic, wire).await? {
            return Err(Ended::Misrouted);
        }
        let channel = wire.start(&owner_command(topic)).await?;
        return Ok(Opened { channel, lines: Lines::default(), twin: None });
    };
    for _ in 1..TWIN_TRIES {
        match open_as_guest(topic, twin, wire).await {
            Err(Ended::ThrownOut { status: 0, .. }) => {}
            opened => return opened,
        }
    }
    open_as_guest(topic, twin, wire).await
}

/// Whether the topic carries a list now. The server answers `ls` to its owner only.
async fn is_hosted(topic: &Topic, wire: &Wire) -> Result<bool, Ended> {
    let mut call = Call::new("ls");
    let output = loop {
        match call.step(wire)? {
            Some(output) => break output,
            None if call.has_unread() => {}
            None => wire.ready().await,
        }
    };
    if output.status != 0 {
        return Err(Ended::Lost(format!("it does not list topics: {}", output.stderr.trim())));
    }
    let listing = Listing::read(&output).map_err(|fault| Ended::Lost(fault.to_string()))?;
    Ok(listing.owned(&topic.name).is_some_and(|listed| listed.access.is_some()))
}

fn owner_command(topic: &Topic) -> String {
    let list = match topic.access.as_deref() {
        None | Some([]) => String::new(),
        Some(users) => format!(" -a {}", users.iter().map(|user| user.as_str()).collect::<Vec<_>>().join(",")),
    };
    format!("pipe {} -c{list}", topic.name)
}

/// The steps are those of [`crate::probe`]. The twin comes first also because the server then arms no deferred removal of the
/// owner's list.
async fn open_as_guest(topic: &Topic, twin: &str, wire: &Wire) -> Result<Opened, Ended> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|fault| Ended::Lost(format!("this machine has no random numbers: {fault}")))?;
    let probe = Probe::new(nonce);

    let channel = wire.until(|| wire.open()).await?;
    let mut twin = Start::new(channel, format!("pipe {twin} -c -r"), &probe);
    twin.begin(wire, &probe.fence_line(1)).await?;
    let opening = || Ok(wire.open()?);
    let ((), channel) = wire.until_both(|| twin.await_echo(Echo::Fence(1)), opening).await?;

    let mut cluster = Start::new(channel, format!("pipe {} -c -r", topic.name), &probe);
    cluster.begin(wire, &probe.probe_line()).await?;
    wire.until(|| cluster.await_echo(Echo::Probe)).await?;

    wire.write(&mut twin.channel, &probe.fence_line(2)).await?;
    wire.until(|| twin.await_echo(Echo::Fence(2))).await?;
    Ok(Opened { channel: cluster.channel, lines: cluster.lines, twin: Some(twin.channel) })
}

/// A topic that is being opened with replay.
struct Start {
    channel: Channel,
    command: String,
    started: bool,
    echoes: Echoes,
    lines: Lines,
    buffer: Vec<u8>,
}

impl Start {
    fn new(channel: Channel, command: String, probe: &Probe) -> Self {
        let (echoes, buffer) = (probe.echoes(), vec![0; READ_BYTES]);
        Self { channel, command, started: false, echoes, lines: Lines::default(), buffer }
    }

    /// Sends the command and the first line behind it, without waiting for the server's yes: that saves a round trip.
    async fn begin(&mut self, wire: &Wire, line: &str) -> Result<(), Ended> {
        while self.channel.exec(&self.command)?.is_none() {
            if !wire.wants_to_send() {
                return Ok(wire.write(&mut self.channel, line).await?);
            }
            wire.ready().await;
        }
        self.started = true;
        Ok(wire.write(&mut self.channel, line).await?)
    }

    /// One try; on the twin the probe is what must not come.
    fn await_echo(&mut self, wanted: Echo) -> Result<Option<()>, Ended> {
        if !self.started {
            let Some(()) = self.channel.exec(&self.command)? else { return Ok(None) };
            self.started = true;
        }
        loop {
            let count = match self.channel.read(&mut self.buffer)? {
                Some(count @ 1..) => count,
                _ if self.channel.eof() => return Err(Ended::ThrownOut { status: 0, said: String::new() }),
                _ => return Ok(None),
            };
            let (mut back, mut misrouted) = (false, false);
            self.echoes.feed(&self.buffer[..count], |echo| {
                back |= echo == wanted;
                misrouted |= echo == Echo::Probe && wanted != Echo::Probe;
            });
            // Before `Up` nobody listens, but a line may have begun.
            self.lines.feed(&self.buffer[..count], |_| {});
            match (misrouted, back) {
                (true, _) => return Err(Ended::Misrouted),
                (false, true) => return Ok(Some(())),
                (false, false) => {}
            }
        }
    }
}
