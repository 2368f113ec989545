//! Files of a session: small ones in one message, as isol8 does it, and streams of any length.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use reqwest::{Body, Method, RequestBuilder};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::Client;
use crate::error::ClientError;

const UPLOAD: &str = "File upload failed";
const DOWNLOAD: &str = "File download failed";

/// A file on its way here.
pub struct Download {
    /// How long it is, if the server says so.
    pub size_bytes: Option<u64>,
    content: futures_util::stream::BoxStream<'static, Result<Bytes, ClientError>>,
}

impl Download {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] if the connection breaks: what came is not the whole file.
    pub async fn next(&mut self) -> Option<Result<Bytes, ClientError>> {
        self.content.next().await
    }
}

/// What is in a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Directory {
    /// Its path.
    pub path: String,
    /// Its entries, sorted by name.
    pub entries: Vec<FileEntry>,
    /// Whether there are more than fit into an answer.
    #[serde(default)]
    pub truncated: bool,
}

/// One entry of a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileEntry {
    /// Its name.
    pub name: String,
    /// `file`, `directory`, `symlink` or `other`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Size of a file.
    pub size_bytes: u64,
    /// Permission bits, in octal, like `0644`.
    pub mode: String,
    /// When it was last changed, ISO 8601.
    pub modified_at: String,
}

#[derive(Deserialize)]
struct FileBody {
    content: String,
}

impl Client {
    /// Writes a file of this client's session.
    ///
    /// # Errors
    /// [`ClientError::NoSession`], [`ClientError::Refused`], [`ClientError::Unreachable`].
    pub async fn put_file(&self, path: &str, content: &[u8]) -> Result<(), ClientError> {
        let session = self.own_session()?;
        let body = json!({"sessionId": session, "path": path, "content": STANDARD.encode(content)});
        let request = self.request(Method::POST, &["file"]).json(&body);
        self.send_ok(UPLOAD, request).await.map(drop)
    }

    /// Reads a file of this client's session.
    ///
    /// # Errors
    /// Those of [`Self::put_file`], and [`ClientError::Content`] for an answer that is not base64.
    pub async fn get_file(&self, path: &str) -> Result<Vec<u8>, ClientError> {
        let session = self.own_session()?;
        let request =
            self.request(Method::GET, &["file"]).query(&[("sessionId", session), ("path", path)]);
        let body: FileBody = self.fetch(DOWNLOAD, request).await?;
        STANDARD
            .decode(body.content)
            .map_err(|error| ClientError::Content(format!("{DOWNLOAD}: {error}")))
    }

    fn own_session(&self) -> Result<&str, ClientError> {
        self.session_id.as_deref().ok_or(ClientError::NoSession)
    }

    /// Writes a file of a session from a stream of `size_bytes`; `mode` are its permission bits.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`] (also if `content` fails).
    pub async fn upload<S>(
        &self,
        session: &str,
        path: &str,
        mode: u32,
        size_bytes: u64,
        content: S,
    ) -> Result<(), ClientError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let request = self
            .session_files(Method::PUT, session, &[])
            .query(&[("path", path), ("mode", &format!("{:04o}", mode & 0o777))])
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, size_bytes)
            .body(Body::wrap_stream(content));
        match self.send_ok(UPLOAD, request).await {
            // A server that refuses before it has read all closes the connection, and its words may
            // be lost on the way. What is most often wrong can be asked for.
            Err(lost @ ClientError::Unreachable { .. }) => {
                let look = self.session_files(Method::GET, session, &["list"]);
                Err(self.send_ok(UPLOAD, look).await.err().unwrap_or(lost))
            }
            done => done.map(drop),
        }
    }

    /// Reads a file of a session as a stream.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`].
    pub async fn download(&self, session: &str, path: &str) -> Result<Download, ClientError> {
        let request = self.session_files(Method::GET, session, &[]).query(&[("path", path)]);
        let response = self.send_ok(DOWNLOAD, request).await?;
        let size_bytes = response.content_length();
        let client = self.clone();
        let content = response
            .bytes_stream()
            .map(move |piece| piece.map_err(|error| client.unreachable(error)))
            .boxed();
        Ok(Download { size_bytes, content })
    }

    /// Lists a directory of a session.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`], [`ClientError::Response`].
    pub async fn list_files(&self, session: &str, path: &str) -> Result<Directory, ClientError> {
        let request = self.session_files(Method::GET, session, &["list"]).query(&[("path", path)]);
        self.fetch("Failed to list files", request).await
    }

    /// Removes a file or directory of a session.
    ///
    /// # Errors
    /// [`ClientError::Refused`], [`ClientError::Unreachable`].
    pub async fn remove_file(&self, session: &str, path: &str) -> Result<(), ClientError> {
        let request = self.session_files(Method::DELETE, session, &[]).query(&[("path", path)]);
        self.send_ok("Failed to remove the file", request).await.map(drop)
    }

    fn session_files(&self, method: Method, session: &str, below: &[&str]) -> RequestBuilder {
        self.request(method, &[&["v1", "sessions", session, "files"], below].concat())
    }
}
