//! The baseline of everything on a network: one TCP connection with NODELAY, on the same runtime and with the same awaits.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use async_io::Async;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::Result;

/// What is sent there and back, bytes.
pub const PING_BYTES: usize = 200;
/// What is written and read at once when much is sent: what a link does too.
const BULK_BYTES: usize = 256 * 1024;

/// One connection.
#[derive(Debug)]
pub struct Raw(Async<TcpStream>);

impl Raw {
    /// Opens a port for one connection.
    ///
    /// # Errors
    /// When that fails.
    pub fn listen() -> Result<(TcpListener, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        Ok((listener, address))
    }

    /// Takes the one connection.
    ///
    /// # Errors
    /// When that fails.
    pub fn accept(listener: &TcpListener) -> Result<Self> {
        Self::new(listener.accept()?.0)
    }

    /// Connects.
    ///
    /// # Errors
    /// When that fails.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        Self::new(TcpStream::connect(address)?)
    }

    fn new(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(Async::new(stream)?))
    }

    /// Sends back `count` messages of [`PING_BYTES`].
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn echo(&mut self, count: usize) -> Result<()> {
        let mut buffer = [0; PING_BYTES];
        for _ in 0..count {
            self.0.read_exact(&mut buffer).await?;
            self.0.write_all(&buffer).await?;
        }
        Ok(())
    }

    /// The round trips of `count` messages, microseconds each.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn ping(&mut self, count: usize) -> Result<Vec<f64>> {
        let mut buffer = [7; PING_BYTES];
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let since = Instant::now();
            self.0.write_all(&buffer).await?;
            self.0.read_exact(&mut buffer).await?;
            times.push(since.elapsed().as_secs_f64() * 1e6);
        }
        Ok(times)
    }

    /// Sends so many bytes, and waits for the one that says that they came.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn send(&mut self, bytes: usize) -> Result<()> {
        let buffer = vec![7; BULK_BYTES];
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(buffer.len());
            self.0.write_all(&buffer[..piece]).await?;
            left -= piece;
        }
        Ok(self.0.read_exact(&mut [0]).await?)
    }

    /// Takes so many bytes, and says so.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn take(&mut self, bytes: usize) -> Result<()> {
        let mut buffer = vec![0; BULK_BYTES];
        let mut left = bytes;
        while left > 0 {
            let count = self.0.read(&mut buffer).await?;
            if count == 0 {
                return Err("the connection was cut".into());
            }
            left = left.saturating_sub(count);
        }
        Ok(self.0.write_all(&[1]).await?)
    }
}
