//! Connections by Debian's `microsocks` and `tinyproxy`.

mod servers;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::thread;

use async_std::task::block_on;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use p2p_dial::Proxy;
use servers::Server;

/// Greets everybody first, as an SSH server does, then gives one line back.
fn greeter() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut connection in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                connection.write_all(b"hello ").unwrap();
                let mut heard = [0; 5];
                connection.read_exact(&mut heard).unwrap();
                connection.write_all(&heard).unwrap();
            });
        }
    });
    address
}

/// What comes back by a proxy, or what it says.
fn talk(proxy: &str, host: &str, port: u16) -> Result<String, String> {
    let proxy: Proxy = proxy.parse().unwrap();
    block_on(async {
        let mut stream = proxy.dial(host, port).await.map_err(|fault| fault.to_string())?;
        stream.write_all(b"world").await.map_err(|fault| fault.to_string())?;
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.map_err(|fault| fault.to_string())?;
        Ok(heard)
    })
}

#[test]
fn names_and_addresses_are_reached_by_both_kinds() {
    let port = greeter().port();
    for server in [Server::socks5(None), Server::http(None, None)] {
        for host in ["127.0.0.1", "localhost"] {
            assert_eq!(talk(&server.url(), host, port), Ok("hello world".to_owned()), "{} {host}", server.url());
        }
    }
}

#[test]
fn users_prove_themselves_and_others_are_refused() {
    let port = greeter().port();
    let user = Some(("me", "s3cret"));
    for server in [Server::socks5(user), Server::http(user, None)] {
        assert_eq!(talk(&server.url_for("me", "s3cret"), "127.0.0.1", port), Ok("hello world".to_owned()));
        for wrong in [server.url(), server.url_for("me", "wr0ng")] {
            let said = talk(&wrong, "127.0.0.1", port).unwrap_err();
            assert!(said.contains(&server.url()) && said.contains("does not connect to 127.0.0.1 port"), "{said}");
            assert!(!said.contains("wr0ng"), "{said}");
        }
    }
}

#[test]
fn what_a_proxy_cannot_or_may_not_do_is_told() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for server in [Server::socks5(None), Server::http(None, None)] {
        let said = talk(&server.url(), "127.0.0.1", nobody.port()).unwrap_err();
        assert!(said.contains("does not connect to 127.0.0.1 port"), "{said}");
    }
    let port = greeter().port();
    let said = talk(&Server::http(None, Some(443)).url(), "127.0.0.1", port).unwrap_err();
    assert!(said.contains("403"), "{said}");
    let said = talk(&format!("socks5://{nobody}"), "127.0.0.1", port).unwrap_err();
    assert!(said.contains(&format!("the proxy socks5://{nobody} cannot be reached")), "{said}");
    // What is no proxy at all.
    for scheme in ["socks5", "http"] {
        assert!(talk(&format!("{scheme}://127.0.0.1:{port}"), "127.0.0.1", port).is_err());
    }
}
