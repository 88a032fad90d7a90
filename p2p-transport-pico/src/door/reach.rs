//! Why nobody is reached, in words; and who answers in place of an SSH server.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use async_io::Async;
use async_std::future::timeout;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};

/// What a stranger may say before he is judged, bytes.
const SAID_BYTES: usize = 256;
/// How long a stranger has to say it.
const SAY_TIMEOUT: Duration = Duration::from_secs(5);
/// What an SSH client says first; a web server complains at the empty line at the latest.
const GREETING: &[u8] = b"SSH-2.0-p2p\r\n\r\n";

/// What went wrong while dialling.
pub(super) fn why(fault: &io::Error) -> String {
    let text = match fault.kind() {
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            "this machine has no network that leads there"
        }
        io::ErrorKind::ConnectionRefused => "nothing listens at that port",
        io::ErrorKind::TimedOut => {
            "a firewall may be in the way; --ssh-args \"-J HOST\" goes by another machine, ALL_PROXY by a proxy"
        }
        _ => return fault.to_string(),
    };
    format!("{text} ({fault})")
}

/// A name that could not be looked up.
pub(super) fn no_name(host: &str, fault: &io::Error) -> io::Error {
    let text =
        format!("the name {host} cannot be looked up ({fault}): this machine may be offline, or the name is wrong");
    io::Error::new(io::ErrorKind::NotFound, text)
}

/// Asks whoever listens there who he is, after a handshake with him has failed: `None` if he may well be an SSH server.
pub(super) async fn who_answers(mut socket: Async<TcpStream>) -> Option<String> {
    let conversation = async {
        let mut said = [0; SAID_BYTES];
        // He may have spoken first, and hung up: what he said still counts.
        let _ = socket.write_all(GREETING).await;
        let count = socket.read(&mut said).await.unwrap_or(0);
        stranger(&said[..count])
    };
    timeout(SAY_TIMEOUT, conversation).await.ok().flatten()
}

fn stranger(said: &[u8]) -> Option<String> {
    if said.is_empty() || said.starts_with(b"SSH-") {
        return None;
    }
    let line = String::from_utf8_lossy(said.split(|&byte| byte == b'\n').next().unwrap_or_default()).into_owned();
    let line: String = line.trim().chars().filter(|c| !c.is_control()).take(80).collect();
    Some(if line.starts_with("HTTP/") || line.starts_with('<') {
        format!(
            "a web server answers there, not an SSH server (it said {line:?}). A network that wants a login first does so: open any web \
             page in a browser, log in, and try again; or the address names the wrong port"
        )
    } else {
        format!("what answers there is no SSH server (it said {line:?}). Check the address and its port")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_named_and_ssh_servers_are_not() {
        assert_eq!(stranger(b""), None);
        assert_eq!(stranger(b"SSH-2.0-OpenSSH_9.2\r\n"), None);
        assert!(stranger(b"HTTP/1.1 400 Bad Request\r\nServer: x\r\n").unwrap().contains("open any web page"));
        let text = stranger(b"220 mail \x1b[2Jready\r\n").unwrap();
        assert!(text.contains("220 mail [2Jready") && text.contains("no SSH server"), "{text}");
    }

    #[test]
    fn faults_of_the_network_are_explained() {
        let why = |kind: io::ErrorKind| why(&kind.into());
        assert!(why(io::ErrorKind::NetworkUnreachable).contains("no network"));
        assert!(why(io::ErrorKind::ConnectionRefused).contains("nothing listens"));
        assert!(why(io::ErrorKind::TimedOut).contains("firewall"));
        assert!(no_name("h", &io::ErrorKind::Other.into()).to_string().contains("offline"));
    }
}
