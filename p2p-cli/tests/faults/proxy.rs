//! A TCP proxy that is as bad as a network: it cuts, refuses, falls silent, delays and loses.
//!
//! It stands in front of the relay. What two peers say to each other passes it twice, towards the relay and away from it; delay and loss
//! apply on the way towards the relay only, so that each byte meets them once.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

/// What one TCP segment carries on an Ethernet.
const SEGMENT_BYTES: usize = 1448;
/// What is carried at a time where nothing is delayed or lost.
const CHUNK_BYTES: usize = 64 * 1024;
/// Pieces on their way in one direction before the sender has to wait.
const UNDER_WAY: usize = 4096;
/// What waits in front of a line with a rate, bytes: about what a good router's queue holds.
const LINE_QUEUE_BYTES: usize = 32 * 1024;
/// TCP sends a lost segment again after this time at the earliest (RFC 6298 says 1 s, Linux does it after 200 ms).
const RETRANSMISSION_MIN: Duration = Duration::from_millis(200);

/// How the network is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Weather {
    /// What each byte takes from peer to peer: half a round trip.
    pub(crate) delay: Duration,
    /// The part of the segments that are lost, 0 to 1. A lost segment holds up all that follow until TCP would have sent it again.
    pub(crate) loss: f64,
    /// What the line carries, bytes a second; without a number, as much as it can.
    pub(crate) rate: Option<u32>,
    /// Where the dice begin.
    pub(crate) seed: u64,
}

/// One of two peers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who {
    SaidMost,
    SaidLeast,
}

/// The proxy. Its connections end when this is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    relay: SocketAddr,
    weather: Weather,
    refuses: AtomicBool,
    over: AtomicBool,
    passed: AtomicU64,
    pairs: Mutex<Vec<Weak<Pair>>>,
}

/// A peer's connection and the one to the relay that belongs to it.
struct Pair {
    peer: TcpStream,
    relay: TcpStream,
    held: Mutex<Held>,
    freed: Condvar,
    /// Bytes that came from the peer, whether or not they went on.
    said: AtomicU64,
}

/// Directions in which nothing passes.
#[derive(Clone, Copy, Default)]
struct Held {
    to_relay: bool,
    to_peer: bool,
}

impl Proxy {
    /// In front of the relay at this address.
    pub(crate) fn start(relay: SocketAddr, weather: Weather) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        if weather.rate.is_some() {
            // Connections that are accepted have what their listener has.
            rustix::net::sockopt::set_socket_recv_buffer_size(&listener, LINE_QUEUE_BYTES).expect("a buffer's size");
        }
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            relay,
            weather,
            refuses: AtomicBool::new(false),
            over: AtomicBool::new(false),
            passed: AtomicU64::new(0),
            pairs: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accepting.accept(&listener));
        Self { address, shared }
    }

    /// Where it listens, as `--relay` takes it.
    pub(crate) fn address(&self) -> String {
        format!("tcp:{}", self.address)
    }

    /// Ends all connections. New ones are served.
    pub(crate) fn cut(&self) {
        for pair in self.shared.pairs() {
            pair.end();
        }
    }

    /// Ends all connections, and every new one at once.
    pub(crate) fn refuse(&self) {
        self.shared.refuses.store(true, Ordering::SeqCst);
        self.cut();
    }

    /// Serves new connections again.
    pub(crate) fn allow(&self) {
        self.shared.refuses.store(false, Ordering::SeqCst);
    }

    /// Falls silent on all connections that there are: they stay open, and nothing passes, not even that one of them ended. New ones are served.
    pub(crate) fn hold(&self) {
        for pair in self.shared.pairs() {
            *lock(&pair.held) = Held { to_relay: true, to_peer: true };
        }
    }

    /// Lets nothing more through of what is said by the peer who has said most, or least. What is said to him still passes.
    pub(crate) fn mute(&self, who: Who) {
        let pairs = self.shared.pairs();
        let said = |pair: &&Arc<Pair>| pair.said.load(Ordering::SeqCst);
        let muted = match who {
            Who::SaidMost => pairs.iter().max_by_key(said),
            Who::SaidLeast => pairs.iter().min_by_key(said),
        };
        lock(&muted.expect("a connection").held).to_relay = true;
    }

    /// Bytes that peers have said on the connections that there are, whether or not they went on.
    pub(crate) fn said(&self) -> u64 {
        self.shared.pairs().iter().map(|pair| pair.said.load(Ordering::SeqCst)).sum()
    }

    /// Bytes that passed towards the relay so far.
    pub(crate) fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn pairs(&self) -> Vec<Arc<Pair>> {
        lock(&self.pairs).iter().filter_map(Weak::upgrade).collect()
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for (number, peer) in (1..).zip(listener.incoming()) {
            if self.over.load(Ordering::SeqCst) {
                return;
            }
            let Ok(peer) = peer else { continue };
            if self.refuses.load(Ordering::SeqCst) {
                continue;
            }
            let Ok(relay) = TcpStream::connect(self.relay) else { continue };
            let _ = (peer.set_nodelay(true), relay.set_nodelay(true));
            let pair = Pair { peer, relay, held: Mutex::default(), freed: Condvar::new(), said: AtomicU64::new(0) };
            let pair = Arc::new(pair);
            {
                let mut pairs = lock(&self.pairs);
                pairs.retain(|pair| pair.strong_count() > 0);
                pairs.push(Arc::downgrade(&pair));
            }
            // Whoever began to refuse meanwhile did not see this one.
            if self.refuses.load(Ordering::SeqCst) {
                pair.end();
            }
            let dice = Dice(self.weather.seed ^ number << 32);
            self.carry(&pair, true, self.weather, dice);
            self.carry(&pair, false, Weather::default(), dice);
        }
    }

    /// One direction: a thread that reads, and one that writes when it is time.
    fn carry(self: &Arc<Self>, pair: &Arc<Pair>, to_relay: bool, weather: Weather, dice: Dice) {
        let (send, receive) = sync_channel(UNDER_WAY);
        let reading = Arc::clone(pair);
        thread::spawn(move || {
            let from = if to_relay { &reading.peer } else { &reading.relay };
            read(from, &send, weather, dice, to_relay.then_some(&reading.said));
        });
        let (shared, writing) = (Arc::clone(self), Arc::clone(pair));
        thread::spawn(move || {
            let to = if to_relay { &writing.relay } else { &writing.peer };
            let counter = to_relay.then_some(&shared.passed);
            write(to, &receive, &writing, to_relay, counter);
        });
    }
}

impl Pair {
    fn end(&self) {
        *lock(&self.held) = Held::default();
        self.freed.notify_all();
        // It may have ended by itself.
        let _ = (self.peer.shutdown(Shutdown::Both), self.relay.shutdown(Shutdown::Both));
    }

    fn wait_while_held(&self, to_relay: bool) {
        let mut held = lock(&self.held);
        while if to_relay { held.to_relay } else { held.to_peer } {
            held = self.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A piece of one direction, to be written when its time has come.
enum Piece {
    Bytes(Instant, Vec<u8>),
    End(Instant),
    Broken,
}

fn read(mut from: &TcpStream, to: &SyncSender<Piece>, weather: Weather, mut dice: Dice, counter: Option<&AtomicU64>) {
    let rough = !weather.delay.is_zero() || weather.loss > 0.0 || weather.rate.is_some();
    let mut bytes = vec![0; if rough { SEGMENT_BYTES } else { CHUNK_BYTES }];
    let mut last = Instant::now();
    let mut line_free = Instant::now();
    loop {
        let read = from.read(&mut bytes);
        if let (Some(rate), Ok(length)) = (weather.rate, &read) {
            line_free = line_free.max(Instant::now()) + Duration::from_secs_f64(*length as f64 / f64::from(rate));
            // What comes next waits in front of the line, not on it.
            thread::sleep(line_free.saturating_duration_since(Instant::now()));
        }
        if let (Some(counter), Ok(length)) = (counter, &read) {
            counter.fetch_add(*length as u64, Ordering::SeqCst);
        }
        last = last.max(Instant::now() + weather.delay);
        if weather.loss > 0.0 && dice.roll() < weather.loss {
            last += RETRANSMISSION_MIN.max(2 * weather.delay);
        }
        let piece = match read {
            Ok(0) => Piece::End(last),
            Ok(length) => Piece::Bytes(last, bytes[..length].to_vec()),
            Err(_) => Piece::Broken,
        };
        let over = !matches!(piece, Piece::Bytes(..));
        if to.send(piece).is_err() || over {
            return;
        }
    }
}

fn write(mut to: &TcpStream, from: &Receiver<Piece>, pair: &Pair, to_relay: bool, counter: Option<&AtomicU64>) {
    let until = |due: Instant| thread::sleep(due.saturating_duration_since(Instant::now()));
    for piece in from {
        match piece {
            Piece::Bytes(due, bytes) => {
                until(due);
                pair.wait_while_held(to_relay);
                if to.write_all(&bytes).is_err() {
                    return pair.end();
                }
                if let Some(counter) = counter {
                    counter.fetch_add(bytes.len() as u64, Ordering::SeqCst);
                }
            }
            Piece::End(due) => {
                until(due);
                pair.wait_while_held(to_relay);
                let _ = to.shutdown(Shutdown::Write);
            }
            Piece::Broken => {
                pair.wait_while_held(to_relay);
                pair.end();
            }
        }
    }
}

/// Splitmix64: the same dice again for the same seed.
#[derive(Clone, Copy)]
struct Dice(u64);

impl Dice {
    /// Evenly from 0 to 1.
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
