//! A log file that is renamed when it is full, of which a bounded number is kept for a bounded time.
//!
//! `frontier.log` becomes `frontier-2026-11-22T21-03-57.123.log`, and `….log.gz` where it is compressed. The time in
//! the name (UTC) decides what is oldest, so copies keep their age.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    thread::JoinHandle,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::config::LogFile;

const DAY: Duration = Duration::from_secs(86_400);

/// The current file and the rules for those before it.
pub(super) struct RotatingFile {
    rules: LogFile,
    max_bytes: u64,
    file: File,
    length: u64,
    now: fn() -> SystemTime,
    /// The file being compressed; one at a time.
    compressing: Option<JoinHandle<()>>,
}

// === impl RotatingFile ===

impl RotatingFile {
    /// Opens the file to append to, with the folders above it.
    pub(super) fn open(rules: &LogFile) -> io::Result<Self> {
        Self::open_at(rules, rules.max_size.saturating_mul(1 << 20), SystemTime::now)
    }

    fn open_at(rules: &LogFile, max_bytes: u64, now: fn() -> SystemTime) -> io::Result<Self> {
        if let Some(folder) = rules.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = append_to(&rules.path)?;
        let length = file.metadata()?.len();
        let mut rotating = Self { rules: rules.clone(), max_bytes, file, length, now, compressing: None };
        rotating.remove_old();
        Ok(rotating)
    }

    /// Writes whole lines, into a new file if they do not fit into this one.
    pub(super) fn write_lines(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut rest = lines;
        while !rest.is_empty() {
            let room = self.max_bytes.saturating_sub(self.length);
            let take = fitting(rest, usize::try_from(room).unwrap_or(usize::MAX));
            if take == 0 && self.length > 0 {
                self.rotate()?;
                continue;
            }
            // A line longer than a whole file still goes somewhere.
            let take = if take == 0 { first_line(rest) } else { take };
            let (now, later) = rest.split_at(take);
            self.file.write_all(now)?;
            self.length += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        let mut backup = self.backup_path(self.millis());
        // Two rotations within a millisecond: the first must not be overwritten.
        let mut later = 0;
        while backup.exists() {
            later += 1;
            backup = self.backup_path(self.millis() + later);
        }
        fs::rename(&self.rules.path, &backup)?;
        self.file = append_to(&self.rules.path)?;
        self.length = 0;
        if self.rules.compress {
            self.compress(backup);
        }
        self.remove_old();
        Ok(())
    }

    fn millis(&self) -> u64 {
        let since = (self.now)().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn backup_path(&self, millis: u64) -> PathBuf {
        let (stem, extension) = self.name_parts();
        self.rules.path.with_file_name(format!("{stem}-{}{extension}", stamp(millis)))
    }

    /// `frontier` and `.log`.
    fn name_parts(&self) -> (String, String) {
        let path = &self.rules.path;
        let text = |part: Option<&std::ffi::OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
        let extension = path.extension().map(|_| format!(".{}", text(path.extension())));
        (text(path.file_stem()), extension.unwrap_or_default())
    }

    fn compress(&mut self, path: PathBuf) {
        if let Some(before) = self.compressing.take() {
            // Files fill faster than they are compressed: the log waits rather than starting more and more work.
            let _ = before.join();
        }
        let work = move || {
            if let Err(error) = gzip(&path) {
                let _ = writeln!(io::stderr(), "log file: {} cannot be compressed: {error}", path.display());
            }
        };
        self.compressing = std::thread::Builder::new().name("log-gzip".to_owned()).spawn(work).ok();
    }

    /// Removes what is too old or too much. What cannot be listed or removed is tried again next time.
    fn remove_old(&mut self) {
        let oldest = self.millis().saturating_sub(self.rules.max_age.saturating_mul(DAY.as_millis() as u64));
        let oldest = stamp(oldest);
        let mut backups = self.backups();
        backups.sort_by(|a, b| b.cmp(a));
        for (index, (stamp, path)) in backups.iter().enumerate() {
            let too_many = u64::try_from(index).is_ok_and(|index| index >= self.rules.max_backups);
            if too_many || *stamp < oldest {
                let _ = fs::remove_file(path);
            }
        }
    }

    /// The times and paths of rotated files.
    fn backups(&self) -> Vec<(String, PathBuf)> {
        let (stem, extension) = self.name_parts();
        let folder = self
            .rules
            .path
            .parent()
            .filter(|path| !path.as_os_str().is_empty())
            .unwrap_or_else(|| Path::new("."));
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        let stamp_of = |name: &str| {
            let rest = name.strip_prefix(&stem)?.strip_prefix('-')?;
            let rest = rest.strip_suffix(".gz").unwrap_or(rest);
            let stamp = rest.strip_suffix(&extension)?;
            is_stamp(stamp).then(|| stamp.to_owned())
        };
        entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                Some((stamp_of(entry.file_name().to_str()?)?, entry.path()))
            })
            .collect()
    }
}

impl Drop for RotatingFile {
    fn drop(&mut self) {
        if let Some(work) = self.compressing.take() {
            let _ = work.join();
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// How many bytes of whole lines fit into `room`.
fn fitting(lines: &[u8], room: usize) -> usize {
    match lines.get(..room) {
        None => lines.len(),
        Some(head) => head.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1),
    }
}

fn first_line(lines: &[u8]) -> usize {
    lines.iter().position(|byte| *byte == b'\n').map_or(lines.len(), |end| end + 1)
}

/// Writes `path.gz` beside the file, then removes the file: a crash leaves both rather than neither.
fn gzip(path: &Path) -> io::Result<()> {
    let mut target = path.as_os_str().to_owned();
    target.push(".gz");
    let mut encoder = flate2::write::GzEncoder::new(File::create(&target)?, flate2::Compression::default());
    io::copy(&mut File::open(path)?, &mut encoder)?;
    encoder.finish()?.sync_all()?;
    fs::remove_file(path)
}

/// Milliseconds since 1970 as `2026-11-22T21-03-57.123`, UTC: sorts by time and stands in a file name everywhere.
fn stamp(millis: u64) -> String {
    let seconds = millis / 1000;
    let (year, month, day) = civil(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}-{minute:02}-{second:02}.{:03}", millis % 1000)
}

/// Whether a text looks like a [`stamp`].
fn is_stamp(text: &str) -> bool {
    const PATTERN: &[u8] = b"0000-00-00T00-00-00.000";
    let fits =
        |(byte, pattern): (u8, &u8)| if *pattern == b'0' { byte.is_ascii_digit() } else { byte == *pattern };
    text.len() == PATTERN.len() && text.bytes().zip(PATTERN).all(fits)
}

/// The date of a day counted from 1970-01-01, in the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last of the year, in eras of 400 years (146,097 days).
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// 2026-11-22T21:03:57.123Z.
    const NOW: Duration = Duration::from_millis(1_795_381_437_123);

    fn now() -> SystemTime {
        UNIX_EPOCH + NOW
    }

    fn rules(folder: &Path) -> LogFile {
        LogFile { path: folder.join("logs/frontier.log"), max_backups: 2, ..LogFile::default() }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder.join("logs")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn stamps_are_dates() {
        for (millis, text) in [
            (0, "1970-01-01T00-00-00.000"),
            (951_782_400_000, "2000-02-29T00-00-00.000"),
            (1_709_251_199_999, "2024-02-29T23-59-59.999"),
            (NOW.as_millis() as u64, "2026-11-22T21-03-57.123"),
            (4_102_444_800_000, "2100-01-01T00-00-00.000"),
        ] {
            assert_eq!(stamp(millis), text);
            assert!(is_stamp(text));
        }
        for text in
            ["", "2026", "2026-11-22T21-03-57.12x", "2026-11-22 21-03-57.123", "2026-11-22T21-03-57.1234"]
        {
            assert!(!is_stamp(text), "{text}");
        }
    }

    #[test]
    fn a_full_file_is_renamed_between_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = RotatingFile::open_at(&rules(dir.path()), 10, now).unwrap();
        file.write_lines(b"12345\n").unwrap();
        file.write_lines(b"678\nabcdef\n").unwrap();
        let read = |name: &str| fs::read_to_string(dir.path().join("logs").join(name)).unwrap();
        assert_eq!(names(dir.path()), ["frontier-2026-11-22T21-03-57.123.log", "frontier.log"]);
        assert_eq!(read("frontier-2026-11-22T21-03-57.123.log"), "12345\n678\n");
        assert_eq!(read("frontier.log"), "abcdef\n");
    }

    #[test]
    fn rotations_within_a_millisecond_keep_both_files() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = RotatingFile::open_at(&rules(dir.path()), 4, now).unwrap();
        file.write_lines(b"abc\ndef\nghi\n").unwrap();
        let stamps =
            ["frontier-2026-11-22T21-03-57.123.log", "frontier-2026-11-22T21-03-57.124.log", "frontier.log"];
        assert_eq!(names(dir.path()), stamps);
    }

    #[test]
    fn only_the_newest_backups_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = RotatingFile::open_at(&rules(dir.path()), 4, now).unwrap();
        file.write_lines(b"1\n2\n3\n4\n5\n6\n7\n8\n9\n").unwrap();
        assert_eq!(names(dir.path()).len(), 3, "{:?}", names(dir.path()));
        assert_eq!(fs::read_to_string(dir.path().join("logs/frontier.log")).unwrap(), "9\n");
    }

    #[test]
    fn old_backups_go_and_foreign_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        fs::create_dir_all(&logs).unwrap();
        let kept = [
            "frontier-2026-10-24T00-00-00.000.log.gz",
            "frontier-notes.log",
            "other-2020-01-01T00-00-00.000.log",
        ];
        for name in kept
            .iter()
            .chain(&["frontier-2026-10-22T00-00-00.000.log", "frontier-2020-01-01T00-00-00.000.log.gz"])
        {
            fs::write(logs.join(name), "").unwrap();
        }
        drop(RotatingFile::open_at(&rules(dir.path()), 10, now).unwrap());
        let expected: Vec<&str> = [&kept[..2], &["frontier.log"], &kept[2..]].concat();
        assert_eq!(names(dir.path()), expected);
    }

    #[test]
    fn appending_goes_on_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        for _ in 0..2 {
            RotatingFile::open_at(&rules(dir.path()), 10, now).unwrap().write_lines(b"abc\n").unwrap();
        }
        assert_eq!(fs::read_to_string(dir.path().join("logs/frontier.log")).unwrap(), "abc\nabc\n");
        RotatingFile::open_at(&rules(dir.path()), 10, now).unwrap().write_lines(b"abc\n").unwrap();
        assert_eq!(names(dir.path()).len(), 2);
    }

    #[test]
    fn a_line_longer_than_the_file_is_written_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = RotatingFile::open_at(&rules(dir.path()), 4, now).unwrap();
        file.write_lines(b"a very long line\nx\n").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("logs/frontier.log")).unwrap(), "x\n");
    }

    #[test]
    fn rotated_files_are_compressed() {
        let dir = tempfile::tempdir().unwrap();
        let rules = LogFile { compress: true, ..rules(dir.path()) };
        let mut file = RotatingFile::open_at(&rules, 4, now).unwrap();
        file.write_lines(b"abc\nd\n").unwrap();
        drop(file);
        assert_eq!(names(dir.path()), ["frontier-2026-11-22T21-03-57.123.log.gz", "frontier.log"]);
        let packed = File::open(dir.path().join("logs/frontier-2026-11-22T21-03-57.123.log.gz")).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc\n");
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("logs"), "a file where a folder should be").unwrap();
        assert!(RotatingFile::open(&rules(dir.path())).is_err());
    }
}
