//! Parquet: one row a document, the text in a string column.

use std::fs::File;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use indicatif::ProgressBar;
use parquet::basic::Type;
use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::DataError;
use super::error::list;
use super::text::{Found, Visit, visit_text};

/// Rows decoded at a time: the values point into their pages, so this bounds how many pages are held.
const ROWS: usize = 64;

/// Reads a string column; nested fields are named by their path, with dots. `null` rows are passed over, rows that
/// are not UTF-8 are [`Found::NotText`]. `bar` advances by the size of each row group.
///
/// # Errors
/// [`DataError::Parquet`], [`DataError::UnknownColumn`], [`DataError::ColumnKind`], [`DataError::Io`], and those of
/// the visitor.
pub(super) fn read(
    path: &Path,
    column: &str,
    bar: &ProgressBar,
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>, DataError> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    let length = file.metadata().map_err(|error| DataError::io(path, error))?.len();
    let reader = guard(path, || SerializedFileReader::new(file))?;
    let number = find_column(path, column, &reader)?;
    check_ranges(path, number, length, &reader)?;
    for group in 0..reader.num_row_groups() {
        let mut rows = open_column(path, number, group, &reader)?;
        if read_rows(path, &mut rows, visit)?.is_break() {
            return Ok(ControlFlow::Break(()));
        }
        bar.inc(u64::try_from(reader.metadata().row_group(group).compressed_size()).unwrap_or(0));
    }
    Ok(ControlFlow::Continue(()))
}

/// Runs the Parquet reader on bytes that nobody has vouched for: it has asserts that a hostile file can reach.
fn guard<T>(path: &Path, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T, DataError> {
    let wrong = |reason: String| DataError::Parquet { path: path.to_owned(), reason };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(wrong(error.to_string().replace('\n', " "))),
        Err(_) => Err(wrong("the reader gave up on it".into())),
    }
}

/// The leaf column of that name.
fn find_column(path: &Path, column: &str, reader: &SerializedFileReader<File>) -> Result<usize, DataError> {
    let schema = reader.metadata().file_metadata().schema_descr();
    let columns = schema.columns();
    let Some(number) = columns.iter().position(|c| c.path().string() == column) else {
        return Err(DataError::UnknownColumn {
            place: path.display().to_string(),
            column: column.into(),
            columns: list(columns.iter().map(|c| c.path().string())),
        });
    };
    let found = &columns[number];
    let kind = match found.physical_type() {
        _ if found.max_rep_level() > 0 => "a list".to_owned(),
        Type::BYTE_ARRAY => return Ok(number),
        other => other.to_string(),
    };
    Err(DataError::ColumnKind { path: path.to_owned(), column: column.into(), kind })
}

/// Refuses column chunks that lie outside the file, before the reader allocates for them.
fn check_ranges(
    path: &Path,
    number: usize,
    length: u64,
    reader: &SerializedFileReader<File>,
) -> Result<(), DataError> {
    for group in reader.metadata().row_groups() {
        let (start, bytes) = guard(path, || Ok(group.column(number).byte_range()))?;
        if start.checked_add(bytes).is_none_or(|end| end > length) {
            let reason = "a column lies outside the file".into();
            return Err(DataError::Parquet { path: path.to_owned(), reason });
        }
    }
    Ok(())
}

fn open_column(
    path: &Path,
    number: usize,
    group: usize,
    reader: &SerializedFileReader<File>,
) -> Result<ColumnReaderImpl<ByteArrayType>, DataError> {
    let rows = guard(path, || reader.get_row_group(group)?.get_column_reader(number))?;
    match rows {
        ColumnReader::ByteArrayColumnReader(rows) => Ok(rows),
        _ => Err(DataError::Parquet { path: path.to_owned(), reason: "a column changes its type".into() }),
    }
}

fn read_rows(
    path: &Path,
    rows: &mut ColumnReaderImpl<ByteArrayType>,
    visit: &mut Visit<'_>,
) -> Result<ControlFlow<()>, DataError> {
    let mut values: Vec<ByteArray> = Vec::with_capacity(ROWS);
    let mut levels = Vec::with_capacity(ROWS);
    loop {
        values.clear();
        levels.clear();
        let (records, _, _) = guard(path, || rows.read_records(ROWS, Some(&mut levels), None, &mut values))?;
        if records == 0 {
            return Ok(ControlFlow::Continue(()));
        }
        for value in &values {
            let flow = match std::str::from_utf8(value.data()) {
                Ok(text) => visit_text(text, visit)?,
                Err(_) => visit(Found::NotText)?,
            };
            if flow.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use parquet::basic::Compression;
    use parquet::data_type::Int64Type;
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    /// Writes a table of `id` and `text`, in row groups of three rows.
    pub(in super::super) fn write_table(path: &Path, rows: &[Option<&str>], compression: Compression) {
        let schema =
            parse_message_type("message rows { required int64 id; optional binary text (UTF8); }").unwrap();
        let properties = WriterProperties::builder().set_compression(compression).build();
        let file = File::create(path).unwrap();
        let mut writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties)).unwrap();
        for group in rows.chunks(3) {
            let mut row_group = writer.next_row_group().unwrap();
            let ids: Vec<i64> = (0..group.len() as i64).collect();
            let mut column = row_group.next_column().unwrap().unwrap();
            column.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
            column.close().unwrap();
            let values: Vec<ByteArray> = group.iter().flatten().map(|text| ByteArray::from(*text)).collect();
            let levels: Vec<i16> = group.iter().map(|text| i16::from(text.is_some())).collect();
            let mut column = row_group.next_column().unwrap().unwrap();
            column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
            column.close().unwrap();
            row_group.close().unwrap();
        }
        writer.close().unwrap();
    }

    fn texts(path: &Path, column: &str) -> Result<Vec<String>, DataError> {
        let mut texts = Vec::new();
        let _flow = read(path, column, &ProgressBar::hidden(), &mut |found| {
            if let Found::Document(text) = found {
                texts.push(text.to_owned());
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(texts)
    }

    #[test]
    fn reads_every_codec_and_passes_over_nulls() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        let long = "a line of text\n".repeat(500);
        let rows = [Some("one"), None, Some("two"), Some(&*long), Some("drei ü")];
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(parquet::basic::ZstdLevel::default()),
            Compression::GZIP(parquet::basic::GzipLevel::default()),
            Compression::LZ4_RAW,
        ] {
            write_table(&path, &rows, compression);
            assert_eq!(texts(&path, "text").unwrap(), ["one", "two", &long, "drei ü"], "{compression}");
        }
    }

    #[test]
    fn wrong_columns_are_explained() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        write_table(&path, &[Some("x")], Compression::UNCOMPRESSED);
        let error = texts(&path, "content").unwrap_err().to_string();
        assert!(
            error.ends_with("no column `content`; there are: id, text (choose one with --text-column)"),
            "{error}"
        );
        let error = texts(&path, "id").unwrap_err().to_string();
        assert!(error.ends_with("column `id` is INT64, not a plain string"), "{error}");
    }

    #[test]
    fn damaged_files_are_errors_and_not_crashes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        write_table(&path, &[Some("hello hello hello"); 7], Compression::SNAPPY);
        let good = std::fs::read(&path).unwrap();
        for cut in [0, 3, 12, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..cut]).unwrap();
            assert!(matches!(texts(&path, "text"), Err(DataError::Parquet { .. })), "cut at {cut}");
        }
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 0x80 >> (position % 8);
            std::fs::write(&path, &bad).unwrap();
            if let Err(error) = texts(&path, "text") {
                assert!(!error.to_string().contains('\n'));
            }
        }
    }
}
