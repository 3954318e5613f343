//! Images in QEMU's format qcow2, by the library `imago`.

use crate::image::{Access, lock};
use crate::truncated::is_truncated;
use crate::{BlockBackend, OpenError, Slice, check_range, read_only, total};
use imago::file::File as ImageFile;
use imago::format::Format as LibraryFormat;
use imago::format::gate::ImplicitOpenGate;
use imago::io_buffers::{IoVector, IoVectorMut};
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, StorageOpenOptions};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// A qcow2 image with the images below it.
pub struct Qcow2Image {
    // Configuration.
    size: u64,
    read_only: bool,
    cached: bool,

    // Dependencies.
    /// Written to by what takes storage away, which must not happen under a request.
    image: RwLock<FormatAccess<ImageFile>>,
}

impl std::fmt::Debug for Qcow2Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Qcow2Image").field("size", &self.size).finish_non_exhaustive()
    }
}

/// Opens the files that an image refers to, and locks them like the image itself.
struct LockingGate;

impl ImplicitOpenGate<ImageFile> for LockingGate {
    fn open_format<F: FormatDriverBuilder<ImageFile>>(
        &mut self,
        builder: F,
    ) -> io::Result<FormatAccess<ImageFile>> {
        if let Some(path) = builder.get_image_path()
            && F::FORMAT == LibraryFormat::Qcow2
            && is_truncated(&File::open(&path)?)?
        {
            return Err(io::Error::other(OpenError::Truncated(path)));
        }
        Ok(FormatAccess::new(builder.open(Self)?))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<ImageFile> {
        let Some(path) = options.get_filename() else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a file without a name"));
        };
        let writable = options.get_writable();
        let access = Access { writable, direct: options.get_direct() };
        let file = access.open(path)?;
        lock(path, &file, writable).map_err(io::Error::other)?;
        ImageFile::from_open_file(file, options)
    }
}

impl Qcow2Image {
    /// Reads the image at `path`, open as `file` and locked.
    ///
    /// # Errors
    ///
    /// [`OpenError::Format`] if it is none, or one of the files it refers to cannot be used.
    pub(crate) fn new(path: &Path, file: File, access: Access) -> Result<Self, OpenError> {
        let options =
            StorageOpenOptions::new().filename(path).write(access.writable).direct(access.direct);
        let open = || {
            let storage = ImageFile::from_open_file(file, options.clone())?;
            Qcow2::<ImageFile>::builder(storage)
                .write(access.writable)
                .storage_open_options(options)
                .open(LockingGate)
        };
        let image = open().map_err(|source| OpenError::Format { path: path.into(), source })?;
        let image = FormatAccess::new(image);
        let size = image.size();
        if size == 0 || !size.is_multiple_of(crate::SECTOR) {
            return Err(OpenError::Size { path: path.into(), size });
        }
        let (read_only, cached) = (!access.writable, !access.direct);
        Ok(Self { size, read_only, cached, image: RwLock::new(image) })
    }

    fn shared(&self) -> RwLockReadGuard<'_, FormatAccess<ImageFile>> {
        self.image.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, FormatAccess<ImageFile>> {
        self.image.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_write(&self, offset: u64, length: u64) -> io::Result<()> {
        check_range(self.size, offset, length)?;
        if self.read_only { Err(read_only()) } else { Ok(()) }
    }
}

impl BlockBackend for Qcow2Image {
    fn size(&self) -> u64 {
        self.size
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }

    fn is_cached(&self) -> bool {
        self.cached
    }

    fn read(&self, offset: u64, slices: &[Slice<'_>]) -> io::Result<()> {
        check_range(self.size, offset, total(slices))?;
        let (vector, _guard) = IoVectorMut::from_volatile_slice(slices);
        self.shared().readv(vector, offset)
    }

    fn write(&self, offset: u64, slices: &[Slice<'_>]) -> io::Result<()> {
        self.check_write(offset, total(slices))?;
        let (vector, _guard) = IoVector::from_volatile_slice(slices);
        self.shared().writev(vector, offset)
    }

    fn flush(&self) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        // First the tables that the library holds back, then everything to the medium.
        let image = self.shared();
        image.flush()?;
        image.sync()
    }

    fn discard(&self, offset: u64, length: u64) -> io::Result<()> {
        self.check_write(offset, length)?;
        match self.exclusive().discard_to_any(offset, length) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
            result => result,
        }
    }

    fn write_zeroes(&self, offset: u64, length: u64, unmap: bool) -> io::Result<()> {
        self.check_write(offset, length)?;
        if !unmap {
            return self.shared().write_zeroes(offset, length);
        }
        match self.exclusive().discard_to_zero(offset, length) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            result => return result,
        }
        self.shared().write_zeroes(offset, length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Memory, behaves_like_a_disk};
    use crate::{Format, ImageOptions, open};
    use imago::FormatCreateBuilder;
    use std::path::PathBuf;

    fn create(directory: &Path, name: &str, size: u64, backing: Option<&str>) -> PathBuf {
        let path = directory.join(name);
        create_over(&path, size, backing.map(|backing| (backing, "raw")));
        path
    }

    /// An image over another one, given by its name and format.
    fn create_over(path: &Path, size: u64, backing: Option<(&str, &str)>) {
        let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
        let options = StorageOpenOptions::new().filename(path).write(true);
        let storage = ImageFile::from_open_file(file, options).unwrap();
        let mut builder = Qcow2::<ImageFile>::create_builder(storage).size(size);
        if let Some((name, format)) = backing {
            builder = builder.backing(name.to_owned(), format.to_owned());
        }
        builder.create().unwrap();
    }

    fn options(path: &Path) -> ImageOptions {
        ImageOptions { format: Some(Format::Qcow2), ..ImageOptions::new(path) }
    }

    #[test]
    fn it_behaves_like_a_disk() {
        let directory = tempfile::tempdir().unwrap();
        let path = create(directory.path(), "disk.qcow2", 1 << 20, None);
        behaves_like_a_disk(&*open(&options(&path)).unwrap(), 5);
        let snapshot = ImageOptions { snapshot: true, ..options(&path) };
        let disk = open(&options(&path)).unwrap();
        disk.write_zeroes(0, 1 << 20, true).unwrap();
        drop(disk);
        behaves_like_a_disk(&*open(&snapshot).unwrap(), 6);
    }

    #[test]
    fn flushed_writes_are_there_the_next_time() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("base"), [5; 1 << 16]).unwrap();
        let path = create(directory.path(), "disk.qcow2", 1 << 16, Some("base"));
        let memory = Memory::new(1 << 16);
        memory.put(0, &[6; 1024]);
        {
            let disk = open(&options(&path)).unwrap();
            disk.write(512, &memory.slices(&[(0, 1024)])).unwrap();
            disk.flush().unwrap();
        }
        let disk = open(&ImageOptions { read_only: true, ..options(&path) }).unwrap();
        disk.read(0, &memory.slices(&[(0, 2048)])).unwrap();
        let expected = [&[5; 512][..], &[6; 1024], &[5; 512]].concat();
        assert_eq!(memory.get(0, 2048), expected);
        assert!(disk.write(0, &memory.slices(&[(0, 512)])).is_err());
    }

    #[test]
    fn images_that_are_not_whole_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = create(directory.path(), "disk.qcow2", 1 << 20, None);
        let memory = Memory::new(1 << 20);
        memory.put(0, &[6; 1 << 20]);
        {
            let disk = open(&options(&path)).unwrap();
            disk.write(0, &memory.slices(&[(0, 1 << 20)])).unwrap();
            disk.flush().unwrap();
        }
        let over = directory.path().join("over.qcow2");
        create_over(&over, 1 << 20, Some(("disk.qcow2", "qcow2")));
        for whole in [&path, &over] {
            open(&options(whole)).unwrap();
        }
        let length = std::fs::metadata(&path).unwrap().len();
        let file = File::options().write(true).open(&path).unwrap();
        for left in [length - (1 << 16), length / 2, 1 << 10] {
            file.set_len(left).unwrap();
            let error = open(&options(&path)).err().unwrap();
            assert!(matches!(error, OpenError::Truncated(_)), "{left}: {error}");
            let error = open(&options(&over)).err().unwrap();
            let OpenError::Format { source, .. } = &error else { panic!("{left}: {error}") };
            assert!(source.to_string().contains("disk.qcow2 ends too early"), "{source}");
        }
    }

    #[test]
    fn what_is_no_qcow2_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.qcow2");
        std::fs::write(&path, [0; 4096]).unwrap();
        assert!(matches!(open(&options(&path)), Err(OpenError::Format { .. })));
        create(directory.path(), "orphan", 4096, Some("nobody"));
        let error = open(&options(&directory.path().join("orphan"))).err().unwrap();
        assert!(matches!(error, OpenError::Format { .. }), "{error}");
    }
}
