//! Serves a board until it is killed: `cargo run -p p2p-hub --example serve -- 127.0.0.1:2222 USERS_FILE HOST_KEY_FILE`.

use std::error::Error;
use std::thread::park;

use p2p_hub::{HostKeySource, Hub, HubConfig, UsersSource};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [listen, users, host_key] = arguments.as_slice() else {
        return Err("usage: serve ADDRESS:PORT USERS_FILE HOST_KEY_FILE".into());
    };
    let hub = Hub::start(HubConfig {
        listen: listen.parse()?,
        users: UsersSource::File(users.into()),
        host_key: HostKeySource::File(host_key.into()),
    })?;
    for problem in hub.users_problems() {
        eprintln!("{problem}");
    }
    println!("{}", hub.known_hosts_line(&hub.local_addr().ip().to_string()));
    loop {
        park();
    }
}
