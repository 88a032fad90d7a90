//! One proxy: SOCKS5 (RFC 1928, by `tokio-socks`), or HTTP with `CONNECT` (RFC 9110), which is a few lines.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::str::FromStr;

use async_io::Async;
use async_std::net::ToSocketAddrs as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use percent_encoding::percent_decode_str;
use tokio_socks::io::Compat;
use tokio_socks::tcp::Socks5Stream;
use url::Url;

/// Addresses of a proxy's name that are tried.
const ADDRESSES: usize = 4;
/// What a proxy may answer before the connection begins, bytes.
const ANSWER_BYTES: usize = 8 * 1024;

/// Where a proxy is, how it is spoken to, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    kind: Kind,
    host: String,
    port: u16,
    user: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Socks5,
    Http,
}

/// A proxy's address that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the proxy {shown:?} cannot be used: {fault}; write it as socks5://HOST:PORT or http://HOST:PORT")]
pub struct ProxyError {
    shown: String,
    fault: &'static str,
}

impl Proxy {
    /// A connection to this port of this host, a name or an address, made by the proxy.
    ///
    /// # Errors
    /// The system's, or what the proxy says. No time ends it.
    pub async fn dial(&self, host: &str, port: u16) -> io::Result<Async<TcpStream>> {
        let named = |fault: &dyn fmt::Display| io::Error::other(format!("the proxy {self} cannot be reached: {fault}"));
        let stream = self.reach().await.map_err(|fault| named(&fault))?;
        stream.get_ref().set_nodelay(true)?;
        match self.kind {
            Kind::Socks5 => self.by_socks5(stream, host, port).await,
            Kind::Http => self.by_http(stream, host, port).await,
        }
    }

    async fn reach(&self) -> io::Result<Async<TcpStream>> {
        let addresses: Vec<SocketAddr> = (self.host.as_str(), self.port).to_socket_addrs().await?.collect();
        let mut last = io::Error::new(io::ErrorKind::NotFound, "its name has no address");
        for address in addresses.into_iter().take(ADDRESSES) {
            match Async::<TcpStream>::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(fault) => last = fault,
            }
        }
        Err(last)
    }

    async fn by_socks5(&self, stream: Async<TcpStream>, host: &str, port: u16) -> io::Result<Async<TcpStream>> {
        let (stream, target) = (Compat::new(stream), (host, port));
        let made = match &self.user {
            None => Socks5Stream::connect_with_socket(stream, target).await,
            Some((user, password)) => {
                Socks5Stream::connect_with_password_and_socket(stream, target, user, password).await
            }
        };
        Ok(made.map_err(|fault| self.refused(host, port, &fault))?.into_inner().into_inner())
    }

    async fn by_http(&self, mut stream: Async<TcpStream>, host: &str, port: u16) -> io::Result<Async<TcpStream>> {
        stream.write_all(self.request(host, port).as_bytes()).await?;
        // Byte by byte, because what follows belongs to the connection.
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if answer.len() >= ANSWER_BYTES || stream.read(&mut byte).await? == 0 {
                return Err(self.refused(host, port, &"it does not answer as an HTTP proxy does"));
            }
            answer.extend_from_slice(&byte);
        }
        match status(&answer) {
            Ok(()) => Ok(stream),
            Err(said) => Err(self.refused(host, port, &said)),
        }
    }

    fn request(&self, host: &str, port: u16) -> String {
        let place = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let proof = self.user.as_ref().map(|(user, password)| STANDARD.encode(format!("{user}:{password}")));
        let proof = proof.map(|proof| format!("Proxy-Authorization: Basic {proof}\r\n")).unwrap_or_default();
        format!("CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{proof}\r\n")
    }

    fn refused(&self, host: &str, port: u16, fault: &dyn fmt::Display) -> io::Error {
        io::Error::other(format!("the proxy {self} does not connect to {host} port {port}: {fault}"))
    }
}

/// Whether an answer says that the connection stands; what it says otherwise.
fn status(answer: &[u8]) -> Result<(), String> {
    let line = String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default()).into_owned();
    let mut words = line.split(' ');
    let (version, code) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if version.starts_with("HTTP/1.") && code.len() == 3 && code.starts_with('2') {
        return Ok(());
    }
    Err(line.chars().filter(|c| !c.is_control()).take(120).collect())
}

impl FromStr for Proxy {
    type Err = ProxyError;

    /// Reads `SCHEME://[USER:PASSWORD@]HOST[:PORT]`; without a scheme it is an HTTP proxy.
    fn from_str(text: &str) -> Result<Self, ProxyError> {
        // A password may stand before the @.
        let shown: String = text.rsplit('@').next().unwrap_or_default().chars().take(80).collect();
        let fault = |fault| ProxyError { shown: shown.clone(), fault };
        let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(&whole).map_err(|_| fault("it is no address"))?;
        let (kind, usual) = match url.scheme() {
            "socks5" | "socks5h" | "socks" => (Kind::Socks5, 1080),
            "http" => (Kind::Http, 80),
            "https" => return Err(fault("connections to it would have to be encrypted, which is not done here")),
            _ => return Err(fault("it is of no kind that is known here")),
        };
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(fault("it names no host"));
        }
        let decode = |text: &str| percent_decode_str(text).decode_utf8().map(|text| text.into_owned());
        let user = match (url.username(), url.password().unwrap_or_default()) {
            ("", "") => None,
            (user, password) => {
                let pair = decode(user).and_then(|user| Ok((user, decode(password)?)));
                Some(pair.map_err(|_| fault("its user or password is not UTF-8"))?)
            }
        };
        Ok(Self { kind, host, port: url.port().unwrap_or(usual), user })
    }
}

/// Without the user and the password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            Kind::Socks5 => "socks5",
            Kind::Http => "http",
        };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        write!(f, "{scheme}://{host}:{}", self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_passwords_are_not_shown() {
        let read = |text: &str| text.parse::<Proxy>().map(|proxy| proxy.to_string());
        assert_eq!(read("socks5h://h"), Ok("socks5://h:1080".to_owned()));
        assert_eq!(read("h:3128"), Ok("http://h:3128".to_owned()));
        assert_eq!(read("socks5://[::1]:9050/"), Ok("socks5://[::1]:9050".to_owned()));
        let proxy: Proxy = "http://me:s%40crt@h:8080".parse().unwrap();
        assert_eq!(proxy.user, Some(("me".to_owned(), "s@crt".to_owned())));
        assert_eq!(format!("{proxy} {proxy:?}"), "http://h:8080 Proxy(http://h:8080)");
        for bad in ["", "https://me:secret@h", "ftp://h", "socks5://", "http://h:99999", "socks4://h"] {
            let fault = bad.parse::<Proxy>().unwrap_err().to_string();
            assert!(!fault.contains("secret") && fault.contains("socks5://HOST:PORT"), "{fault}");
        }
    }

    #[test]
    fn requests_and_answers_are_those_of_http() {
        let proxy: Proxy = "http://me:pw@h".parse().unwrap();
        assert_eq!(
            proxy.request("::1", 22),
            "CONNECT [::1]:22 HTTP/1.1\r\nHost: [::1]:22\r\nProxy-Authorization: Basic bWU6cHc=\r\n\r\n"
        );
        assert_eq!(status(b"HTTP/1.0 200 Connection established\r\n\r\n"), Ok(()));
        for bad in ["HTTP/1.1 403 Filtered\r\n\r\n", "SSH-2.0-x\r\n\r\n", "\r\n\r\n", "HTTP/1.1 2000 x\r\n\r\n"] {
            assert!(status(bad.as_bytes()).is_err(), "{bad:?} was taken for a yes");
        }
    }
}
