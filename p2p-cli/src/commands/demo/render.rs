//! The demonstration's client: one task per tile, a picture at the end, and who computed what.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::BufWriter;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use futures::stream::{FuturesUnordered, StreamExt as _};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use p2p_proto::ids::PeerName;
use p2p_proto::link::item::Channel;
use p2p_proto::task::{Command, Ended};
use p2p_scheduler::{Client, Outcome, Task, TaskEvent, TaskHandle};
use serde_bytes::ByteBuf;

use super::fractal::Picture;
use crate::options::Common;
use crate::say;
use crate::trouble::{Code, Trouble};
use crate::wiring::{PERSONAL, Patience, Wiring, say_report};

/// How long to wait for a worker.
const WAIT: Duration = Duration::from_secs(30);

/// The client's command line.
pub fn arguments(picture: &Picture, out: &Path) -> Result<Vec<OsString>, Trouble> {
    let mut arguments: Vec<OsString> = ["demo", "render"].map(Into::into).into();
    arguments.extend(picture_arguments(picture));
    arguments.extend(["--out".into(), out.into()]);
    Ok(arguments)
}

fn picture_arguments(picture: &Picture) -> impl Iterator<Item = OsString> {
    let Picture { width, height, tile_side, steps } = *picture;
    let numbers = [("--width", width), ("--height", height), ("--tile-side", tile_side), ("--steps", steps)];
    numbers.into_iter().flat_map(|(name, value)| [name.into(), value.to_string().into()])
}

/// What one worker did.
#[derive(Default)]
struct Share {
    tiles: u32,
    busy: Duration,
}

/// Has the picture computed, and writes it to `out`.
pub async fn render(common: &Common, picture: &Picture, out: &Path) -> Result<ExitCode, Trouble> {
    picture.check()?;
    let file = File::create(out).map_err(|fault| {
        Trouble::new(
            Code::CannotWrite,
            format!("{} cannot be written: {fault}; choose another place with --out", out.display()),
        )
    })?;
    let wiring = Wiring::new(common, PERSONAL).await?;
    let client = wiring.client()?;
    let since = Instant::now();
    let mut pixels = vec![0; picture.width as usize * picture.height as usize * 3];
    let shares = tiles(&client, picture, &mut pixels, common.quiet).await?;
    let wall = since.elapsed();
    let status = client.status();
    client.close().await;
    write_png(file, picture, &pixels)
        .map_err(|fault| Trouble::new(Code::CannotWrite, format!("{}: {fault}", out.display())))?;

    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["worker", "tiles", "computing", "link"]);
    for (worker, share) in &shares {
        let path = status.workers.iter().find(|known| known.name == *worker).and_then(|known| known.path.as_ref());
        table.add_row([
            worker.to_string(),
            share.tiles.to_string(),
            format!("{:.2} s", share.busy.as_secs_f64()),
            path.map_or("gone".to_owned(), ToString::to_string),
        ]);
    }
    let one_slot: Duration = shares.values().map(|share| share.busy).sum();
    println!("\n{table}\n");
    println!("wall time         {:.2} s", wall.as_secs_f64());
    println!("time on one slot  {:.2} s (the tiles' own times, added up)", one_slot.as_secs_f64());
    println!("speed-up          {:.2}", one_slot.as_secs_f64() / wall.as_secs_f64());
    println!("picture           {}", out.display());
    Ok(ExitCode::SUCCESS)
}

/// Submits all tiles and puts each into its place as it comes.
async fn tiles(
    client: &Client,
    picture: &Picture,
    pixels: &mut [u8],
    quiet: bool,
) -> Result<BTreeMap<PeerName, Share>, Trouble> {
    let program = std::env::current_exe().map_err(|fault| Trouble::system("this program cannot find itself", fault))?;
    let task = |tile: u32| {
        let words = [program.clone().into_os_string(), "demo".into(), "tile".into()]
            .into_iter()
            .chain(picture_arguments(picture))
            .chain(["--tile".into(), tile.to_string().into()]);
        Task::command(&Command { argv: words.map(|word| ByteBuf::from(word.into_vec())).collect(), env: Vec::new() })
    };
    let handles = client.submit_all((0..picture.tiles()).map(task)).await;
    let mut running: FuturesUnordered<_> = (0..).zip(handles).map(|(tile, handle)| finish(tile, handle)).collect();
    let progress = progress(picture.tiles(), quiet);
    let mut shares: BTreeMap<PeerName, Share> = BTreeMap::new();
    let mut patience = Patience::new(WAIT);
    loop {
        futures::select_biased! {
            done = running.next() => {
                let Some(done) = done else { break };
                let (tile, worker, ran, bytes) = done?;
                place(picture, tile, &bytes, pixels)?;
                let share = shares.entry(worker).or_default();
                share.tiles += 1;
                share.busy += ran;
                let words: Vec<String> = shares.iter().map(|(worker, share)| format!("{worker} {}", share.tiles)).collect();
                progress.set_message(words.join("  "));
                progress.inc(1);
                patience.reset();
            }
            report = futures::FutureExt::fuse(client.report()) => if let Some(report) = report {
                say_report(&report, client);
            },
            () = futures::FutureExt::fuse(async_std::task::sleep(patience.next_look())) => patience.look(client.waiting())?,
        }
    }
    progress.finish();
    say::set_bars(None);
    Ok(shares)
}

fn progress(tiles: u32, quiet: bool) -> ProgressBar {
    let bars = MultiProgress::new();
    if quiet {
        bars.set_draw_target(indicatif::ProgressDrawTarget::hidden());
    }
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} tiles  {per_sec}  {eta} left  {msg}");
    let bar = bars.add(ProgressBar::new(u64::from(tiles)));
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    say::set_bars(Some(bars));
    bar
}

/// One tile's end: its number, who computed it for how long, and its pixels.
async fn finish(tile: u32, mut handle: TaskHandle) -> Result<(u32, PeerName, Duration, Vec<u8>), Trouble> {
    let (mut pixels, mut words) = (Vec::new(), Vec::new());
    while let Some(event) = handle.next().await {
        match event {
            TaskEvent::Data { channel: Channel::Stdout, bytes, .. } => pixels.extend_from_slice(&bytes),
            TaskEvent::Data { channel: Channel::Stderr, bytes, .. } => words.extend_from_slice(&bytes),
            TaskEvent::Again => {
                pixels.clear();
                words.clear();
            }
            TaskEvent::Outcome(Outcome::Finished { worker, finished }) if finished.ended == Ended::Exit(0) => {
                return Ok((tile, worker, Duration::from_micros(finished.ran_us), pixels));
            }
            TaskEvent::Outcome(outcome) => {
                let words = say::harmless(&String::from_utf8_lossy(&words));
                return Err(Trouble::new(Code::Failed, format!("tile {tile} was not computed: {outcome:?} {words}")));
            }
            _ => {}
        }
    }
    Err(Trouble::new(Code::Failed, format!("tile {tile} ended without a word")))
}

fn place(picture: &Picture, tile: u32, bytes: &[u8], pixels: &mut [u8]) -> Result<(), Trouble> {
    let (left, top, width, height) = picture.area(tile);
    let row_bytes = width as usize * 3;
    if bytes.len() != row_bytes * height as usize {
        return Err(Trouble::new(Code::Failed, format!("tile {tile} has {} bytes, which is no tile", bytes.len())));
    }
    for (row, source) in (top as usize..).zip(bytes.chunks_exact(row_bytes)) {
        let start = (row * picture.width as usize + left as usize) * 3;
        pixels[start..start + row_bytes].copy_from_slice(source);
    }
    Ok(())
}

fn write_png(file: File, picture: &Picture, pixels: &[u8]) -> Result<(), png::EncodingError> {
    let mut encoder = png::Encoder::new(BufWriter::new(file), picture.width, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()
}
