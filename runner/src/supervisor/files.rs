//! Files on their way in and out, and the questions about them, one after another.

use nix::errno::Errno;

use runner::protocol::{Failed, FileError, Kind, Stage};

use super::Supervisor;
use crate::files::{Reader, Request, Step, Writer};
use crate::link::Frame;
use crate::spawn::{describe, failed};

/// Questions that may wait while one is being answered.
const READ_QUEUE: usize = 64;

impl Supervisor {
    pub(super) fn take_file_frame(&mut self, frame: &Frame) {
        if self.file_failure.is_some() {
            return;
        }
        self.prepared.mark_used();
        if self.writer.is_none() {
            match Writer::new() {
                Ok(writer) => self.writer = Some(writer),
                Err(error) => {
                    self.file_failure = Some(failed(Stage::Fork, "", &error));
                    return;
                }
            }
        }
        if let Some(writer) = &mut self.writer {
            writer.push(frame);
        }
    }

    /// Tells whether the files sent so far are written.
    pub(super) fn sync(&mut self) {
        match self.file_failure.take() {
            None => self.link.send(Kind::Synced, b""),
            Some(Failed { path, message, errno, .. }) => {
                self.link.send_message(Kind::FileError, &FileError { path, message, errno });
            }
        }
    }

    pub(super) fn ask(&mut self, request: Request) {
        if self.reads.len() < READ_QUEUE {
            self.reads.push_back(request);
            self.step_reader();
            return;
        }
        let message = "too many files asked for at once".to_owned();
        let error =
            FileError { path: request.path().to_owned(), message, errno: Errno::EBUSY as i32 };
        self.link.send_message(Kind::FileError, &error);
    }

    pub(super) fn step_files(&mut self) {
        if let Some(outcome) = self.writer.as_mut().and_then(Writer::advance) {
            self.writer = None;
            if let Err(failure) = outcome {
                self.file_failure.get_or_insert(failure);
            }
        }
        self.step_reader();
    }

    fn step_reader(&mut self) {
        if self.reader.is_none()
            && let Some(request) = self.reads.pop_front()
        {
            let path = request.path().to_owned();
            match Reader::new(request) {
                Ok(reader) => self.reader = Some(reader),
                Err(error) => self.refuse_read(path, &error),
            }
        }
        let Some(reader) = &mut self.reader else {
            return;
        };
        loop {
            if !self.link.has_room() {
                return reader.excuse_wait();
            }
            match reader.advance() {
                Step::Waiting => return,
                Step::Frame(frame) => self.link.send(frame.kind, &frame.payload),
                Step::Last(frame) => {
                    self.link.send(frame.kind, &frame.payload);
                    self.reader = None;
                    return;
                }
                Step::Failed(error) => {
                    self.link.send_message(Kind::FileError, &error);
                    self.reader = None;
                    return;
                }
            }
        }
    }

    fn refuse_read(&mut self, path: String, error: &std::io::Error) {
        let message = describe(error);
        let errno = error.raw_os_error().unwrap_or(Errno::EIO as i32);
        self.link.send_message(Kind::FileError, &FileError { path, message, errno });
    }
}
