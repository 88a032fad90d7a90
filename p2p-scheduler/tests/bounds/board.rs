//! A board that floods hellos of peers that somebody invented.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use p2p_proto::board::message::{Beat, Claim, Hello, Offer};
use p2p_proto::board::{BoardEvent, Envelope, Line, Message};
use p2p_proto::ids::{ClusterName, MachineKey, PeerKeys, PeerName, ProcessKey, Role, UserName};
use p2p_proto::limits;
use p2p_proto::trust::{Credentials, Identity, Membership, MembershipClaims, ProcessCertificate, ProcessSecret};
use p2p_scheduler::machine::admission::AdmissionEvent;
use p2p_scheduler::machine::client::{ClientInput, ClientMachine};
use p2p_scheduler::machine::host::{HostInput, HostMachine, HostOutput, HostReport};
use p2p_scheduler::machine::{Me, Now};
use p2p_scheduler::memory::Cluster;
use p2p_scheduler::{
    Client, ClientReport, Functions, HostConfig, HostKept, HostTrust, MemberKept, Removal, Task, TrustStore,
};

use crate::{memory, run};

const CLUSTER: &str = "alice/friends";
const NOW: Now = Now { at: Duration::from_secs(1), unix: 1_800_000_000 };
/// What a remembered peer may take in one machine, bytes, with as many labels and runtimes as a hello may have.
const PER_PEER_BYTES: usize = 8 * 1024;
/// What a host may keep for any number of one machine's processes, with the answers that wait, bytes.
const PER_MACHINE_BYTES: usize = 512 * 1024;
/// What may be left of any number of hellos that do not verify, bytes: the allocator's own.
const REFUSED_BYTES: usize = 4 * 1024 * 1024;
/// Peers that a stranger invents: it costs him nothing.
const INVENTED: u32 = 100_000;
/// Processes that a member signs: more than anybody remembers.
const SIGNED: u32 = 10_500;

/// A member's machine, and the host's word for it.
#[derive(Clone)]
struct Signer {
    user: UserName,
    identity: Identity,
    membership: Membership,
}

impl Signer {
    fn new(user: &str, secret: u8, host: &Identity) -> Self {
        let user: UserName = user.parse().unwrap();
        let identity = Identity::from_secret(&[secret; 32]);
        let claims = MembershipClaims {
            host: host.machine_key(),
            user: user.clone(),
            machine: identity.machine_key(),
            serial: 1,
            from: NOW.unix - 60,
            until: NOW.unix + limits::MEMBERSHIP_TTL.as_secs(),
        };
        Self { user, membership: Membership::sign(host, &CLUSTER.parse().unwrap(), &claims), identity }
    }

    /// The hello of this machine's process `number`, as long as one can be.
    fn hello(&self, number: u32, unix: u64) -> Line {
        let process = process(number);
        let until = unix + limits::PROCESS_TTL.as_secs();
        let cluster: ClusterName = CLUSTER.parse().unwrap();
        let certificate = ProcessCertificate::sign(&self.identity, &cluster, Role::Worker, process, unix, until);
        // An honest one is forgotten first by whoever goes by time alone.
        let ttl_s = if self.user.as_str() == "mallory" { u32::MAX } else { limits::HELLO_TTL.as_secs() as u32 };
        hello(
            &self.user,
            number,
            unix,
            ttl_s,
            Credentials { membership: self.membership.clone(), certificate },
            long_offer(),
        )
    }
}

fn process(number: u32) -> ProcessKey {
    let mut key = [9; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    ProcessKey(key)
}

/// As long as one can be.
fn long_offer() -> Offer {
    let labels = (0..limits::LABELS).map(|label| format!("{label:0>width$}", width = limits::LABEL_BYTES)).collect();
    let runtimes =
        (0..limits::RUNTIMES).map(|runtime| format!("{runtime:x>width$}", width = limits::RUNTIME_BYTES)).collect();
    Offer { slots: 1, free: 1, runtimes, memory_mib: u64::MAX, labels }
}

fn hello(user: &UserName, number: u32, unix: u64, ttl_s: u32, credentials: Credentials, offer: Offer) -> Line {
    let offer = Some(offer);
    let (role, version) = (Role::Worker, p2p_proto::VERSION);
    let message = Message::Hello(Hello { credentials, process: process(number), role, version, offer, ttl_s });
    let from = PeerName::new(user, &"h".repeat(limits::HOSTNAME_BYTES), number);
    Line::encode(&Envelope { from, sequence: 1, time: unix, message }).unwrap()
}

fn me(user: &str, role: Role, identity: Identity) -> Me {
    let user: UserName = user.parse().unwrap();
    let name = PeerName::new(&user, "box", 1);
    let secret = ProcessSecret::from_entropy([role as u8 + 1; 32]);
    Me { cluster: CLUSTER.parse().unwrap(), name, user, role, identity, secret }
}

/// A client and the host, each with only her machine: what a board may do to them is seen at once.
struct Machines {
    client: ClientMachine,
    host: HostMachine,
    bob: Signer,
    dave: Signer,
    mallory: Signer,
}

impl Machines {
    fn new() -> Self {
        let identity = Identity::from_secret(&[1; 32]);
        let carol = Signer::new("carol", 5, &identity);
        let carol_again = carol.clone();
        let [bob, dave, mallory] =
            [("bob", 2), ("dave", 3), ("mallory", 4)].map(|(user, secret)| Signer::new(user, secret, &identity));
        let key = identity.machine_key();
        let kept = MemberKept { host: Some(key), membership: Some(carol.membership), ..MemberKept::default() };
        let me_carol = me("carol", Role::Client, carol.identity.clone());
        let client = ClientMachine::new(me_carol, NOW, HostTrust::Login, kept, [6; 32]);
        let signers = [("bob", &bob), ("carol", &carol_again), ("dave", &dave), ("mallory", &mallory)];
        let members = signers.map(|(user, signer)| (user.parse().unwrap(), signer.identity.machine_key())).to_vec();
        let listed = ["bob", "carol", "dave", "mallory"].map(|user| user.parse().unwrap());
        let kept = HostKept { members, ..HostKept::default() };
        let host = HostMachine::new(me("alice", Role::Host, identity), HostConfig::of(listed), kept);
        let mut machines = Self { client, host, bob, dave, mallory };
        machines.hear(&BoardEvent::Up);
        machines
    }

    fn hear(&mut self, event: &BoardEvent) {
        self.client_hears(event);
        self.host.handle(NOW, HostInput::Board(event.clone()), &mut Vec::new());
    }

    fn client_hears(&mut self, event: &BoardEvent) {
        self.client.handle(NOW, ClientInput::Board(event.clone()), &mut Vec::new());
    }

    /// Whether the host lets this process in when it claims.
    fn admits(&mut self, signer: &Signer, number: u32) -> bool {
        let keys = PeerKeys { machine: signer.identity.machine_key(), process: process(number) };
        let (cluster, role) = (CLUSTER.parse().unwrap(), Role::Worker);
        let until = NOW.unix + limits::PROCESS_TTL.as_secs();
        let certificate = ProcessCertificate::sign(&signer.identity, &cluster, role, keys.process, NOW.unix, until);
        let message = Message::Claim(Claim { user: signer.user.clone(), keys, certificate, role });
        let from = PeerName::new(&signer.user, "box", number);
        let line = Line::encode(&Envelope { from, sequence: 1, time: NOW.unix, message }).unwrap();
        let mut out = Vec::new();
        self.host.handle(NOW, HostInput::Board(BoardEvent::Line(line)), &mut out);
        out.iter().any(|output| matches!(output, HostOutput::Report(HostReport::Admitted { .. })))
    }

    /// How many signatures the host remembers.
    fn signatures(&self) -> usize {
        self.host.tables().iter().find(|table| table.what == "signatures").unwrap().holds
    }

    /// The workers that the client knows, with those of `user`.
    fn workers(&self, user: &str) -> (usize, usize) {
        let workers = self.client.status(NOW).workers;
        (workers.len(), workers.iter().filter(|worker| worker.name.user() == user).count())
    }

    /// Peers as the host counts them, herself included: her last beat says it.
    fn peers(mut self) -> usize {
        let mut out = Vec::new();
        self.host.handle(NOW, HostInput::Leave, &mut out);
        let beat = out.iter().find_map(|output| match output {
            HostOutput::Publish(line) => match line.decode().unwrap().message {
                Message::Beat(beat) => Some(Beat::verify(&beat, &CLUSTER.parse().unwrap()).unwrap()),
                _ => None,
            },
            _ => None,
        });
        beat.unwrap().peers as usize
    }
}

#[test]
fn hellos_that_nobody_signed_leave_nothing_behind() {
    if !memory::alone() {
        return;
    }
    let mut machines = Machines::new();
    let line = machines.bob.hello(0, NOW.unix);
    machines.hear(&BoardEvent::Line(line));
    // Each with another key, in a listed name; two keys are another's.
    let stranger = Signer::new("bob", 66, &Identity::from_secret(&[67; 32]));
    let mixed = Signer { membership: machines.mallory.membership.clone(), ..stranger.clone() };
    let forged: Vec<Credentials> = [&stranger, &mixed]
        .map(|signer| {
            let Message::Hello(hello) = signer.hello(1, NOW.unix).decode().unwrap().message else { unreachable!() };
            hello.credentials
        })
        .to_vec();
    let bob = machines.bob.user.clone();
    let before = memory::now();
    for number in 1..=INVENTED {
        let credentials = forged[number as usize % forged.len()].clone();
        let line = BoardEvent::Line(hello(&bob, number, NOW.unix, 1, credentials, Offer::default()));
        // To find out takes curve arithmetic, and both do it alike: the host need not hear all.
        if number % 4 == 0 { machines.hear(&line) } else { machines.client_hears(&line) }
    }
    assert!(memory::peak() - before < REFUSED_BYTES, "{} bytes", memory::peak() - before);
    assert_eq!(machines.workers("bob"), (1, 1));
    let line = machines.dave.hello(u32::MAX, NOW.unix);
    machines.hear(&BoardEvent::Line(line));
    assert_eq!(machines.workers("dave"), (2, 1), "a hello is believed after the flood");
    assert_eq!(machines.peers(), 3);
}

#[test]
fn a_member_who_invents_processes_fills_the_directory_and_drives_nobody_else_out() {
    if !memory::alone() {
        return;
    }
    let mut machines = Machines::new();
    let line = machines.bob.hello(0, NOW.unix);
    machines.hear(&BoardEvent::Line(line));
    let mallory = machines.mallory.clone();
    let before = memory::now();
    for number in 1..=SIGNED {
        machines.hear(&BoardEvent::Line(mallory.hello(number, NOW.unix)));
    }
    println!("a peer takes {} bytes", (memory::peak() - before) / limits::DIRECTORY_PEERS / 2);
    let most = 2 * limits::DIRECTORY_PEERS * PER_PEER_BYTES;
    assert!(memory::peak() - before < most, "{} bytes", memory::peak() - before);
    assert_eq!(machines.workers("bob"), (limits::DIRECTORY_PEERS, 1));
    let line = machines.dave.hello(u32::MAX, NOW.unix);
    machines.hear(&BoardEvent::Line(line));
    assert_eq!(machines.workers("dave"), (limits::DIRECTORY_PEERS, 1));
    assert_eq!(machines.workers("bob"), (limits::DIRECTORY_PEERS, 1));
    // Bob, dave and the host herself beside her.
    assert_eq!(machines.peers(), 3 + limits::PROCESSES_PER_MACHINE);
}

#[test]
fn a_host_signs_once_for_all_processes_of_a_machine_and_remembers_few_of_them() {
    if !memory::alone() {
        return;
    }
    let mut machines = Machines::new();
    let mallory = machines.mallory.clone();
    let before = memory::now();
    let admitted = (1..=SIGNED).filter(|number| machines.admits(&mallory, *number)).count();
    assert!(admitted >= limits::PROCESSES_PER_MACHINE, "{admitted} of a member's processes were admitted");
    assert_eq!(machines.signatures(), 1);
    let grown = memory::peak() - before;
    assert!(grown < PER_MACHINE_BYTES, "{grown} bytes");
    let bob = machines.bob.clone();
    assert!(machines.admits(&bob, 0));
}

#[test]
fn a_hello_counts_for_its_time_whatever_it_says() {
    let mut machines = Machines::new();
    let line = machines.mallory.hello(0, NOW.unix);
    machines.hear(&BoardEvent::Line(line));
    let workers = |after| machines.client.status(Now { at: NOW.at + after, ..NOW }).workers.len();
    // It said that it holds for a hundred years.
    assert_eq!(workers(limits::HELLO_TTL_MAX - Duration::from_millis(1)), 1);
    assert_eq!(workers(limits::HELLO_TTL_MAX), 0);
}

/// Keeps what the host signed.
#[derive(Default)]
struct Kept(Mutex<Option<Membership>>);

impl TrustStore for Kept {
    fn load(&self, _: &ClusterName) -> MemberKept {
        MemberKept::default()
    }
    fn save(&self, _: &ClusterName, kept: &MemberKept) {
        self.0.lock().unwrap().clone_from(&kept.membership);
    }
    fn load_roster(&self, _: &ClusterName) -> HostKept {
        HostKept::default()
    }
    fn bind(&self, _: &ClusterName, _: &UserName, _: MachineKey, _: u64, _: u64) {}
    fn unbind(&self, _: &ClusterName, _: &UserName, _: Removal) {}
    fn pend(&self, _: &ClusterName, _: &UserName, _: MachineKey) {}
}

async fn echoes(client: &Client, runtime: &str) {
    for handle in client.submit_all((0..100).map(|n| Task::call(runtime, &n).unwrap())).await {
        let outcome = handle.outcome().await;
        assert!(outcome.is_success(), "{outcome:?}");
    }
}

#[test]
fn tasks_go_on_while_the_board_is_flooded_and_newcomers_are_believed_afterwards() {
    if !memory::alone() {
        return;
    }
    run(async {
        let cluster = Cluster::open(CLUSTER, &["bob", "carol", "dave", "mallory"]).unwrap();
        let _bob = cluster.worker("bob", 2, Functions::new().register("echo", Ok)).unwrap();
        let client = cluster.client("carol").unwrap();
        echoes(&client, "echo").await;
        // Mallory has the host's word like everybody else.
        let member = cluster.member("mallory").unwrap();
        let topic = member.cluster.topic();
        let kept = Arc::new(Kept::default());
        let board = Arc::new(cluster.hub().board_of(&topic, &member.user));
        let store = Arc::clone(&kept) as Arc<dyn TrustStore>;
        let mallory = Client::join(&member, board, Arc::new(cluster.net().transport()), store).unwrap();
        while !matches!(mallory.report().await, Some(ClientReport::Admission(AdmissionEvent::Admitted { .. }))) {}
        let membership = kept.0.lock().unwrap().clone().unwrap();
        let signer = Signer { user: "mallory".parse().unwrap(), identity: member.identity, membership };
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let before = memory::now();
        let over = Arc::new(AtomicBool::new(false));
        let flood = std::thread::spawn({
            let (over, hub) = (Arc::clone(&over), cluster.hub().clone());
            move || {
                let mut number = 0;
                while !over.load(Ordering::Relaxed) {
                    number += 1;
                    hub.inject(&topic, signer.hello(number, unix));
                }
                number
            }
        });
        while client.status().workers.len() < 500 {
            async_std::task::sleep(Duration::from_millis(1)).await;
        }
        echoes(&client, "echo").await;
        over.store(true, Ordering::Relaxed);
        let number = flood.join().unwrap();
        let inboxes = 5 * limits::BOARD_INBOX * limits::LINE_BYTES;
        println!("{number} hellos took {} bytes", memory::peak() - before);
        let most = inboxes + 2 * limits::DIRECTORY_PEERS * PER_PEER_BYTES;
        assert!(memory::peak() - before < most, "{} bytes", memory::peak() - before);
        let _dave = cluster.worker("dave", 2, Functions::new().register("other", Ok)).unwrap();
        echoes(&client, "other").await;
    });
}
