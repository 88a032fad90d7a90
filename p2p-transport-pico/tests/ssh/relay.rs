//! A line to a server that can be made to go dead: nothing passes, nobody hangs up.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    /// Held while the line is dead.
    gate: Arc<Mutex<()>>,
}

impl Relay {
    /// Serves until the test process ends.
    pub(crate) fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let relay = Self { address: listener.local_addr().unwrap(), gate: Arc::default() };
        let gate = relay.gate.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(server).unwrap();
                let ends = (client.try_clone().unwrap(), server.try_clone().unwrap());
                for (from, to) in [(client, server), (ends.1, ends.0)] {
                    let gate = gate.clone();
                    thread::spawn(move || copy(from, to, &gate));
                }
            }
        });
        relay
    }

    /// The line is dead for as long as `during` runs.
    pub(crate) async fn dead_during<T>(&self, during: impl Future<Output = T>) -> T {
        let gate = self.gate.clone();
        let (alive, dead) = std::sync::mpsc::channel::<()>();
        let (begun, waiting) = std::sync::mpsc::channel();
        thread::spawn(move || {
            let _held = gate.lock().unwrap_or_else(PoisonError::into_inner);
            begun.send(()).unwrap();
            let _ = dead.recv();
        });
        waiting.recv().unwrap();
        let result = during.await;
        drop(alive);
        result
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, gate: &Mutex<()>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
