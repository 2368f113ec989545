//! The files of an image, as one archive.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{CreateContainerOptions, RemoveContainerOptionsBuilder};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::volumes::MANAGED;
use super::{Docker, DockerError, call, is_not_found};

impl Docker {
    /// Sends the files of an image, piece by piece, as a tar archive of its root. Whoever takes them may stop.
    ///
    /// The engine exports containers alone, so one is made for it; it never runs.
    ///
    /// # Errors
    /// [`DockerError::NoSuchImage`] or [`DockerError::Call`].
    pub async fn export_image(
        &self,
        image: &str,
        pieces: mpsc::Sender<Bytes>,
    ) -> Result<(), DockerError> {
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            cmd: Some(vec!["true".into()]),
            labels: Some(HashMap::from([(MANAGED.0.into(), MANAGED.1.into())])),
            host_config: Some(HostConfig {
                network_mode: Some("none".into()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let created = self.client.create_container(None::<CreateContainerOptions>, body).await;
        let created = created.map_err(|source| {
            if is_not_found(&source) {
                DockerError::NoSuchImage { image: image.to_owned() }
            } else {
                call(format!("create a container of {image} to export"), source)
            }
        })?;
        let mut export = self.client.export_container(&created.id);
        let mut outcome = Ok(());
        while let Some(piece) = export.next().await {
            match piece {
                Ok(piece) => {
                    if pieces.send(piece).await.is_err() {
                        break;
                    }
                }
                Err(source) => {
                    outcome = Err(call(format!("export {image}"), source));
                    break;
                }
            }
        }
        drop(export);
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        self.client
            .remove_container(&created.id, Some(options))
            .await
            .map_err(|source| call(format!("remove the container of {image}"), source))?;
        outcome
    }
}
