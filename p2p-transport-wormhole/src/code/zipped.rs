//! Folders as zip files, which is how all clients send them.
//!
//! What arrives is a stranger's: its directory is read entry by entry and never as a whole, every name is checked before it becomes a path,
//! links are refused, and counts and sizes end at what was announced.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use futures::FutureExt as _;
use p2p_proto::task::check_file_name;
use walkdir::WalkDir;
use zip::read::{Config, ZipFile};
use zip::unstable::read::ZipIterable;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipReadOptions, ZipWriter};

use super::config::Stop;
use super::content::unreadable;
use super::error::CodeError;
use super::limits::{DEPTH, ENTRIES};
use super::receiving::cannot_write;

/// Fast rather than small: the way is seldom slower than this packs.
const LEVEL: i64 = 1;
const BUFFER_BYTES: usize = 128 * 1024;

/// A folder, packed.
pub(super) struct Packed {
    /// Its beginning is next to be read. It has no name, and goes when it is closed.
    pub(super) file: File,
    pub(super) zip_bytes: u64,
    /// All files together.
    pub(super) bytes: u64,
    pub(super) files: u64,
    /// What is not in it, and why.
    pub(super) left_out: Vec<String>,
}

/// What the sender of a folder announced.
pub(super) struct Declared {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

/// Packs a folder.
pub(super) fn pack(folder: &Path, stop: &Stop) -> Result<Packed, CodeError> {
    let root = folder.canonicalize().map_err(|fault| unreadable(folder, &fault))?;
    let file = tempfile::tempfile().map_err(|fault| cannot_write("a temporary file", &fault))?;
    let mut packing = Packing {
        root: &root,
        zip: ZipWriter::new(BufWriter::with_capacity(BUFFER_BYTES, file)),
        entries: 0,
        bytes: 0,
        files: 0,
        left_out: Vec::new(),
    };
    for entry in WalkDir::new(&root).min_depth(1).max_depth(DEPTH + 1).sort_by_file_name() {
        check_stop(stop)?;
        let entry = entry.map_err(|fault| CodeError::Input(format!("the folder cannot be read: {fault}")))?;
        if entry.depth() > DEPTH {
            return Err(CodeError::Input(format!("{} lies more than {DEPTH} folders deep", entry.path().display())));
        }
        packing.add(&entry, stop)?;
    }
    packing.finish()
}

struct Packing<'a> {
    root: &'a Path,
    zip: ZipWriter<BufWriter<File>>,
    entries: usize,
    bytes: u64,
    files: u64,
    left_out: Vec<String>,
}

impl Packing<'_> {
    fn add(&mut self, entry: &walkdir::DirEntry, stop: &Stop) -> Result<(), CodeError> {
        let path = entry.path();
        let below = path.strip_prefix(self.root).unwrap_or(path);
        let name = below.to_str().ok_or_else(|| {
            CodeError::Input(format!(
                "the name of {} is not UTF-8: rename it, or send the folder as a tar file",
                path.display()
            ))
        })?;
        check_file_name(name).map_err(|fault| CodeError::Input(format!("{}: {}", path.display(), fault.message)))?;
        self.entries += 1;
        if self.entries > ENTRIES {
            return Err(CodeError::Input(format!(
                "the folder has more than {ENTRIES} files and folders in it: send it as a tar file"
            )));
        }
        let kind = entry.file_type();
        if kind.is_dir() {
            // Others make folders as files need them, and some make a file of an entry for a folder: only an empty one has none to bring it.
            let empty = fs::read_dir(path).and_then(|mut inside| inside.next().transpose());
            if empty.map_err(|fault| unreadable(path, &fault))?.is_none() {
                let options = SimpleFileOptions::default().unix_permissions(0o755);
                self.zip.add_directory(name, options).map_err(unpackable)?;
            }
            return Ok(());
        }
        let real = if kind.is_symlink() {
            match path.canonicalize() {
                Ok(real) if !real.starts_with(self.root) => return self.leave_out(name, "a link out of the folder"),
                Ok(real) if real.is_dir() => return self.leave_out(name, "a link to a folder"),
                Ok(real) => real,
                Err(_) => return self.leave_out(name, "a link to nothing"),
            }
        } else {
            path.to_owned()
        };
        if !fs::metadata(&real).map_err(|fault| unreadable(path, &fault))?.is_file() {
            return self.leave_out(name, "neither a file nor a folder");
        }
        self.add_file(name, &real, stop)
    }

    fn add_file(&mut self, name: &str, path: &Path, stop: &Stop) -> Result<(), CodeError> {
        // What became a pipe meanwhile must not be waited for.
        let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or_default();
        let file = File::options().read(true).custom_flags(nonblocking).open(path);
        let file = file.map_err(|fault| unreadable(path, &fault))?;
        let metadata = file.metadata().map_err(|fault| unreadable(path, &fault))?;
        if !metadata.is_file() {
            return self.leave_out(name, "neither a file nor a folder");
        }
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .compression_level(Some(LEVEL))
            .large_file(metadata.len() > u64::from(u32::MAX / 2))
            .unix_permissions(metadata.permissions().mode() & 0o777);
        self.zip.start_file(name, options).map_err(unpackable)?;
        let mut from = Stoppable { from: file.take(metadata.len()), stop };
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count = from.read(&mut buffer).map_err(|fault| from.why(|fault| unreadable(path, fault), &fault))?;
            if count == 0 {
                break;
            }
            self.zip.write_all(&buffer[..count]).map_err(|fault| cannot_write("a temporary file", &fault))?;
            self.bytes += count as u64;
        }
        self.files += 1;
        Ok(())
    }

    fn leave_out(&mut self, name: &str, why: &str) -> Result<(), CodeError> {
        self.left_out.push(format!("{name} ({why})"));
        Ok(())
    }

    fn finish(self) -> Result<Packed, CodeError> {
        use std::io::Seek as _;
        let writer = self.zip.finish().map_err(unpackable)?;
        let mut file = writer.into_inner().map_err(|fault| cannot_write("a temporary file", fault.error()))?;
        let system = |fault: io::Error| cannot_write("a temporary file", &fault);
        let zip_bytes = file.stream_position().map_err(system)?;
        file.rewind().map_err(system)?;
        Ok(Packed { file, zip_bytes, bytes: self.bytes, files: self.files, left_out: self.left_out })
    }
}

/// Unpacks a zip file of a stranger into an empty folder.
pub(super) fn unpack(zip: &Path, into: &Path, declared: &Declared, stop: &Stop) -> Result<(), CodeError> {
    let open = || {
        let file =
            File::open(zip).map_err(|fault| CodeError::System(format!("what arrived cannot be read: {fault}")))?;
        Ok(BufReader::with_capacity(8 * 1024, file))
    };
    let mut archive = ZipIterable::try_new(open()?, Config::default()).map_err(corrupt)?;
    if archive.len() > ENTRIES {
        return Err(CodeError::Unacceptable(format!(
            "the folder has {} files and folders in it, and at most {ENTRIES} are taken",
            archive.len()
        )));
    }
    let mut entries = archive.files_with_reader(open()?, ZipReadOptions::new()).map_err(corrupt)?;
    let (mut files, mut bytes) = (0, declared.bytes);
    while let Some(entry) = entries.next() {
        check_stop(stop)?;
        let mut entry = entry.map_err(corrupt)?;
        let (path, is_folder) = place(&entry, into)?;
        if is_folder {
            make_folders(&path)?;
            continue;
        }
        files += 1;
        if files > declared.files {
            return Err(CodeError::Unacceptable(format!(
                "the folder has more files than the {} announced",
                declared.files
            )));
        }
        if let Some(parent) = path.parent() {
            make_folders(parent)?;
        }
        bytes -= unpack_file(&mut entry, &path, bytes, stop)?;
    }
    Ok(())
}

/// Where an entry goes, and whether it is a folder.
fn place(entry: &ZipFile<'_, BufReader<File>>, into: &Path) -> Result<(PathBuf, bool), CodeError> {
    let refused = |name: &str, rule: &str| {
        let shown: String = name.chars().take(80).flat_map(char::escape_default).collect();
        CodeError::Unacceptable(format!("the folder is refused: \"{shown}\" in it {rule}"))
    };
    let name = entry.name().map_err(|_| refused("?", "has a name that is no text"))?;
    let inside = name.strip_suffix('/').unwrap_or(&name);
    if check_file_name(inside).is_err() {
        return Err(refused(&name, "has a name that leads out of it, or that no file can have"));
    }
    if inside.split('/').count() > DEPTH {
        return Err(refused(&name, "lies too deep"));
    }
    if entry.is_symlink() {
        return Err(refused(&name, "is a link"));
    }
    Ok((into.join(inside), entry.is_dir()))
}

/// At most `most` bytes; says how many there were.
fn unpack_file(
    entry: &mut ZipFile<'_, BufReader<File>>,
    path: &Path,
    most: u64,
    stop: &Stop,
) -> Result<u64, CodeError> {
    let runs = entry.unix_mode().is_some_and(|mode| mode & 0o100 != 0);
    let file = File::options().write(true).create_new(true).mode(if runs { 0o777 } else { 0o666 }).open(path);
    let mut file = file.map_err(|fault| match fault.kind() {
        io::ErrorKind::AlreadyExists => {
            CodeError::Unacceptable(format!("the folder is refused: it has {} twice", shown(path)))
        }
        _ => cannot_write(&shown(path), &fault),
    })?;
    // One more shows that there is more.
    let mut from = Stoppable { from: entry.take(most.saturating_add(1)), stop };
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    loop {
        let corrupt = |fault: &io::Error| {
            CodeError::Unacceptable(format!("the folder is refused: {} in it does not unpack ({fault})", shown(path)))
        };
        let count = from.read(&mut buffer).map_err(|fault| from.why(corrupt, &fault))?;
        if count == 0 {
            return Ok(bytes);
        }
        bytes += count as u64;
        if bytes > most {
            return Err(CodeError::Unacceptable(
                "the folder is refused: it has more in it than was announced".to_owned(),
            ));
        }
        file.write_all(&buffer[..count]).map_err(|fault| cannot_write(&shown(path), &fault))?;
    }
}

/// Below an empty folder of our own, in which there are no links.
fn make_folders(path: &Path) -> Result<(), CodeError> {
    fs::create_dir_all(path).map_err(|fault| match fault.kind() {
        io::ErrorKind::AlreadyExists | io::ErrorKind::NotADirectory => {
            CodeError::Unacceptable(format!("the folder is refused: {} in it is a file and a folder", shown(path)))
        }
        _ => cannot_write(&shown(path), &fault),
    })
}

/// The last part: what is before it is a temporary name.
fn shown(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn corrupt(fault: zip::result::ZipError) -> CodeError {
    CodeError::Unacceptable(format!("the folder is refused: it is packed wrongly ({fault})"))
}

fn unpackable(fault: zip::result::ZipError) -> CodeError {
    match fault {
        zip::result::ZipError::Io(fault) => cannot_write("a temporary file", &fault),
        fault => CodeError::Input(format!("the folder cannot be packed: {fault}")),
    }
}

fn check_stop(stop: &Stop) -> Result<(), CodeError> {
    if stop.clone().stopped().now_or_never().is_some() { Err(CodeError::Stopped) } else { Ok(()) }
}

/// A reader that ends with an error once it is told to stop.
struct Stoppable<'a, R> {
    from: R,
    stop: &'a Stop,
}

impl<R> Stoppable<'_, R> {
    fn why(&self, otherwise: impl FnOnce(&io::Error) -> CodeError, fault: &io::Error) -> CodeError {
        check_stop(self.stop).err().unwrap_or_else(|| otherwise(fault))
    }
}

impl<R: Read> Read for Stoppable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        check_stop(self.stop).map_err(|_| io::Error::other("stopped"))?;
        self.from.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A zip file as somebody may make it: names, permissions (a link's among them), contents.
    fn zip(entries: &[(&str, u32, &[u8])]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut zip = ZipWriter::new(file.reopen().unwrap());
        for (name, mode, content) in entries {
            if mode & 0o170_000 == 0o120_000 {
                zip.add_symlink(*name, std::str::from_utf8(content).unwrap(), SimpleFileOptions::default()).unwrap();
            } else if name.ends_with('/') {
                zip.add_directory(*name, SimpleFileOptions::default()).unwrap();
            } else {
                zip.start_file(*name, SimpleFileOptions::default().unix_permissions(*mode)).unwrap();
                zip.write_all(content).unwrap();
            }
        }
        zip.finish().unwrap();
        file
    }

    fn unpacked(file: &Path, declared: &Declared) -> (tempfile::TempDir, Result<(), CodeError>) {
        let outer = tempfile::tempdir().unwrap();
        let into = outer.path().join("into");
        fs::create_dir(&into).unwrap();
        let result = unpack(file, &into, declared, &Stop::never());
        (outer, result)
    }

    const MUCH: Declared = Declared { bytes: 1 << 30, files: 1000 };

    #[test]
    fn names_that_lead_out_and_links_are_refused() {
        for name in ["../out", "a/../../out", "/tmp/out", "a//b", "./a", "a\\..\\b", "C:\\out", "nul\0l"] {
            // The writer may refuse some by itself.
            let made = std::panic::catch_unwind(|| zip(&[(name, 0o644, b"x")]));
            let Ok(file) = made else { continue };
            let (outer, result) = unpacked(file.path(), &MUCH);
            let inside = fs::read_dir(outer.path().join("into")).unwrap().count();
            let outside = fs::read_dir(outer.path()).unwrap().count();
            match result {
                Err(CodeError::Unacceptable(words)) => assert!(words.contains("refused"), "{name}: {words}"),
                // Taken literally, it is a name like others.
                Ok(()) => assert_eq!(inside, 1, "{name}"),
                Err(other) => panic!("{name}: {other}"),
            }
            assert_eq!(outside, 1, "{name} is outside");
        }
        let file = zip(&[("link", 0o120_777, b"/etc"), ("link/passwd", 0o644, b"x")]);
        let words = unpacked(file.path(), &MUCH).1.unwrap_err().to_string();
        assert!(words.contains("\"link\" in it is a link"), "{words}");
    }

    #[test]
    fn no_more_is_unpacked_than_was_announced() {
        let file = zip(&[("a", 0o644, &[0; 1000]), ("b", 0o644, &[0; 1000])]);
        let fits = Declared { bytes: 2000, files: 2 };
        assert!(unpacked(file.path(), &fits).1.is_ok());
        for declared in [Declared { bytes: 1999, files: 2 }, Declared { bytes: 2000, files: 1 }] {
            let words = unpacked(file.path(), &declared).1.unwrap_err().to_string();
            assert!(words.contains("announced"), "{words}");
        }
        // A bomb: what unpacks to a thousand times its size.
        let bomb = zip(&[("bomb", 0o644, &vec![0; 50 << 20])]);
        assert!(bomb.as_file().metadata().unwrap().len() < 100 << 10);
        let (outer, result) = unpacked(bomb.path(), &Declared { bytes: 1 << 20, files: 1 });
        assert!(result.is_err());
        assert!(fs::metadata(outer.path().join("into/bomb")).unwrap().len() <= 1 << 20);
    }

    #[test]
    fn what_is_twice_or_a_file_and_a_folder_is_refused() {
        let file = zip(&[("a", 0o644, b"x"), ("a/b", 0o644, b"x")]);
        let words = unpacked(file.path(), &MUCH).1.unwrap_err().to_string();
        assert!(words.contains("a file and a folder"), "{words}");
        let garbage = tempfile::NamedTempFile::new().unwrap();
        fs::write(garbage.path(), [7; 5000]).unwrap();
        let words = unpacked(garbage.path(), &MUCH).1.unwrap_err().to_string();
        assert!(words.contains("packed wrongly"), "{words}");
    }

    #[test]
    fn folders_that_are_too_deep_are_neither_packed_nor_unpacked() {
        let deep = "d/".repeat(DEPTH);
        let words = unpacked(zip(&[(&format!("{deep}f"), 0o644, b"x")]).path(), &MUCH).1.unwrap_err().to_string();
        assert!(words.contains("too deep"), "{words}");
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join(&deep)).unwrap();
        fs::write(folder.path().join(&deep).join("f"), "x").unwrap();
        let Err(error) = pack(folder.path(), &Stop::never()) else { panic!("it was packed") };
        assert!(error.to_string().contains("folders deep"), "{error}");
    }
}
