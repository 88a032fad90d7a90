//! An executor for Rust functions: an embedding program registers them by name, clients call them with bytes.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Either, select};
use serde::Serialize;
use serde::de::DeserializeOwned;

use async_std::task::spawn_blocking;
use p2p_blobs::Cache;
use p2p_proto::blob::BlobRef;
use p2p_proto::ids::UserName;
use p2p_proto::limits;
use p2p_proto::link::item::{CacheUse, Channel};
use p2p_proto::task::{Content, Ended, Failure, FailureKind, TaskSpec};

use crate::blobs::{self, FetchError};
use crate::driver::lock;
use crate::executor::{AttemptEnd, AttemptIo, Executor, Stop, Stops};

/// What a registered function is: bytes in, bytes or an error in words out.
type Function = dyn Fn(Vec<u8>) -> BoxFuture<'static, Result<Vec<u8>, String>> + Send + Sync;

/// Runs registered functions, on as many threads of its own as attempts run at a time, so that a function may compute or block
/// without holding anybody else up.
///
/// A function that computes cannot be interrupted: a cancelled attempt ends as it ends once the function returns, and keeps its slot until
/// then. One that awaits is dropped at its next await, and its attempt is reported as cancelled.
#[derive(Clone, Default)]
pub struct Functions {
    registered: BTreeMap<String, Arc<Function>>,
    pool: Arc<Pool>,
    cache: Option<Arc<Cache>>,
}

impl Functions {
    /// No functions yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps large inputs here, so that they need not be sent again (D-01). Without it they are sent for each call.
    pub fn cached(mut self, cache: Arc<Cache>) -> Self {
        self.cache = Some(cache);
        self
    }

    /// Registers a function that computes; it may block. A panic or an `Err` fails the task that called it, nothing else.
    ///
    /// # Panics
    /// For a name over [`limits::RUNTIME_BYTES`], or more than [`limits::RUNTIMES`] functions: both are fixed when a program is written.
    pub fn register(
        self,
        name: &str,
        function: impl Fn(Vec<u8>) -> Result<Vec<u8>, String> + Send + Sync + 'static,
    ) -> Self {
        self.register_async(name, move |input| futures::future::ready(function(input)))
    }

    /// Registers a function of one CBOR value to another.
    ///
    /// # Panics
    /// As [`Functions::register`].
    pub fn register_typed<In: DeserializeOwned, Out: Serialize>(
        self,
        name: &str,
        function: impl Fn(In) -> Out + Send + Sync + 'static,
    ) -> Self {
        self.register(name, move |input| {
            let input = from_cbor(&input)?;
            to_cbor(&function(input))
        })
    }

    /// Registers a function that awaits.
    ///
    /// # Panics
    /// As [`Functions::register`].
    pub fn register_async<F>(mut self, name: &str, function: impl Fn(Vec<u8>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Vec<u8>, String>> + Send + 'static,
    {
        assert!(name.len() <= limits::RUNTIME_BYTES, "the name {name:?} has over {} bytes", limits::RUNTIME_BYTES);
        self.registered.insert(name.to_owned(), Arc::new(move |input| function(input).boxed()));
        assert!(self.registered.len() <= limits::RUNTIMES, "over {} functions", limits::RUNTIMES);
        self
    }
}

impl fmt::Debug for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.registered.keys()).finish()
    }
}

impl Executor for Functions {
    fn runtimes(&self) -> Vec<String> {
        self.registered.keys().cloned().collect()
    }

    fn attempt(&self, task: TaskSpec, io: AttemptIo) -> BoxFuture<'static, AttemptEnd> {
        match self.registered.get(&task.runtime) {
            Some(function) => {
                attempt(Arc::clone(function), Arc::clone(&self.pool), self.cache.clone(), task, io).boxed()
            }
            None => {
                let message = format!("this worker has no function {:?}", task.runtime);
                futures::future::ready(Failure::new(FailureKind::UnknownRuntime, message).into()).boxed()
            }
        }
    }

    fn cache_use(&self, user: &UserName) -> Option<CacheUse> {
        self.cache.as_ref().map(|cache| cache.usage(user))
    }

    fn spawn(&self, attempt: BoxFuture<'static, ()>) {
        self.pool.spawn(attempt);
    }
}

/// The CBOR of a value, for a task's input or a function's result.
///
/// # Errors
/// When the value does not serialise.
pub fn to_cbor<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).map_err(|fault| format!("the value does not serialise: {fault}"))?;
    Ok(bytes)
}

/// A value from CBOR.
///
/// # Errors
/// When the bytes are not such a value.
pub fn from_cbor<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    ciborium::from_reader(bytes).map_err(|fault| format!("the bytes are not what is expected: {fault}"))
}

async fn attempt(
    function: Arc<Function>,
    pool: Arc<Pool>,
    cache: Option<Arc<Cache>>,
    task: TaskSpec,
    mut io: AttemptIo,
) -> AttemptEnd {
    let (input, streamed) = match task.payload {
        Content::Inline(bytes) => (bytes, false),
        Content::Streamed(size) => match gather(&mut io, size).await {
            Ok(bytes) => (bytes, true),
            Err(failure) => return failure.into(),
        },
        Content::Blob(blob) => match bytes_of(cache, &io, &blob).await {
            Ok(bytes) => (bytes, true),
            Err(fault) => return Failure::from(fault).into(),
        },
    };
    if io.slot.pass().await.is_err() {
        return AttemptEnd::new(Ended::Cancelled);
    }
    let call = call(function, input, io.stops);
    if !streamed {
        return call.await;
    }
    // Input came in where nothing may block; the function itself gets a thread like any other.
    let (sender, ended) = futures::channel::oneshot::channel();
    let call = async move {
        // An error means that nobody waits for it any more.
        let _ = sender.send(call.await);
    };
    pool.spawn(call.boxed());
    ended.await.unwrap_or_else(|_| AttemptEnd::new(Ended::Cancelled))
}

async fn bytes_of(cache: Option<Arc<Cache>>, io: &AttemptIo, blob: &BlobRef) -> Result<Vec<u8>, FetchError> {
    let shelf = match cache {
        Some(cache) => {
            let user = io.user.clone();
            Some(spawn_blocking(move || cache.shelf(&user)).await?)
        }
        None => None,
    };
    blobs::hold_bytes(shelf.as_ref(), &io.content, Channel::Payload, blob).await
}

async fn call(function: Arc<Function>, input: Vec<u8>, mut stops: Stops) -> AttemptEnd {
    let since = Instant::now();
    // The call itself may panic, as may any poll of what it returns.
    let call = std::panic::AssertUnwindSafe(async move { function(input).await }).catch_unwind();
    let stopped = std::pin::pin!(stops.next());
    let mut end = match select(std::pin::pin!(call), stopped).await {
        Either::Left((Ok(Ok(value)), _)) => AttemptEnd { value, ..AttemptEnd::new(Ended::Exit(0)) },
        Either::Left((Ok(Err(fault)), _)) => Failure::new(FailureKind::FunctionFailed, fault).into(),
        Either::Left((Err(panic), _)) => {
            let message = format!("the function panicked: {}", panic_words(panic.as_ref()));
            Failure::new(FailureKind::FunctionFailed, message).into()
        }
        Either::Right((Stop::Interrupt | Stop::Kill, _)) => AttemptEnd::new(Ended::Cancelled),
    };
    end.ran = since.elapsed();
    end
}

async fn gather(io: &mut AttemptIo, size: u64) -> Result<Vec<u8>, Failure> {
    let fault = || Failure::new(FailureKind::Malformed, "the function's input did not arrive whole");
    let mut input = Vec::new();
    loop {
        let piece = io.content.next().await.map_err(|_| fault())?;
        if piece.channel != Channel::Payload {
            continue;
        }
        io.content.taken(piece.channel, piece.bytes.len());
        input.extend_from_slice(&piece.bytes);
        if input.len() as u64 > size || (piece.end && input.len() as u64 != size) {
            return Err(fault());
        }
        if piece.end {
            return Ok(input);
        }
    }
}

fn panic_words(panic: &(dyn std::any::Any + Send)) -> String {
    let words = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    words.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without words".to_owned())
}

/// Threads that each see one attempt through. One that ends an attempt often starts the next itself: no thread waits for another.
#[derive(Default)]
struct Pool {
    state: Mutex<PoolState>,
    work: Condvar,
}

#[derive(Default)]
struct PoolState {
    queue: VecDeque<BoxFuture<'static, ()>>,
    idle: usize,
    threads: usize,
}

/// A thread without work for this long ends.
const IDLE_THREAD: std::time::Duration = std::time::Duration::from_secs(60);

impl Pool {
    fn spawn(self: &Arc<Self>, attempt: BoxFuture<'static, ()>) {
        let mut state = lock(&self.state);
        state.queue.push_back(attempt);
        if state.idle >= state.queue.len() {
            drop(state);
            self.work.notify_one();
            return;
        }
        // Attempts run only in slots, so there are never more threads than slots.
        state.threads += 1;
        drop(state);
        let pool = Arc::clone(self);
        let started = std::thread::Builder::new().name("p2p-function".to_owned()).spawn(move || pool.work());
        if let Err(fault) = started {
            lock(&self.state).threads -= 1;
            log::error!("no thread for a function: {fault}; it waits for another one to end");
        }
    }

    fn work(&self) {
        let mut state = lock(&self.state);
        loop {
            if let Some(mut attempt) = state.queue.pop_front() {
                drop(state);
                // Most functions compute and are done: to wait for nothing would still wake the thread that waits for sockets, each time.
                if (&mut attempt).now_or_never().is_none() {
                    async_std::task::block_on(attempt);
                }
                state = lock(&self.state);
                continue;
            }
            state.idle += 1;
            let waited = self.work.wait_timeout(state, IDLE_THREAD);
            let (next, timed_out) = waited.unwrap_or_else(std::sync::PoisonError::into_inner);
            state = next;
            state.idle -= 1;
            if timed_out.timed_out() && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }
}
