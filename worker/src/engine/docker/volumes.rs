//! Volumes: created and filled through the engine's archive interface, found by label, removed.

use std::collections::HashMap;

use bollard::models::{ContainerCreateBody, HostConfig, Volume, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptions, ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveVolumeOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bytes::Bytes;
use futures_util::Stream;

use super::{Docker, DockerError, call, is_not_found};

/// Carried by every container and volume of ours.
pub(super) const MANAGED: (&str, &str) = ("isol8.managed", "true");

/// A volume of ours.
#[derive(Clone, Debug)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: HashMap<String, String>,
}

impl Docker {
    /// Looks a volume up; `None` if there is none of that name.
    ///
    /// # Errors
    /// [`DockerError::Call`].
    pub async fn volume_info(&self, name: &str) -> Result<Option<VolumeInfo>, DockerError> {
        match self.client.inspect_volume(name).await {
            Ok(volume) => Ok(Some(volume.into())),
            Err(error) if is_not_found(&error) => Ok(None),
            Err(source) => Err(call("look at a volume", source)),
        }
    }

    /// Volumes that carry `label` (`name=value` or `name`).
    ///
    /// # Errors
    /// [`DockerError::Call`].
    pub async fn list_volumes(&self, label: &str) -> Result<Vec<VolumeInfo>, DockerError> {
        self.volumes("label", label).await
    }

    /// Volumes that no container, running or not, has mounted.
    ///
    /// # Errors
    /// [`DockerError::Call`] if the engine refuses.
    pub async fn unused_volumes(&self) -> Result<Vec<VolumeInfo>, DockerError> {
        self.volumes("dangling", "true").await
    }

    async fn volumes(&self, filter: &str, value: &str) -> Result<Vec<VolumeInfo>, DockerError> {
        let filters = HashMap::from([(filter, vec![value])]);
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let answer = self
            .client
            .list_volumes(Some(options))
            .await
            .map_err(|source| call("list volumes", source))?;
        Ok(answer.volumes.unwrap_or_default().into_iter().map(VolumeInfo::from).collect())
    }

    /// Creates an empty volume, unless there is one of that name.
    ///
    /// # Errors
    /// [`DockerError::Call`].
    pub async fn create_volume(
        &self,
        name: &str,
        mut labels: HashMap<String, String>,
    ) -> Result<(), DockerError> {
        labels.insert(MANAGED.0.into(), MANAGED.1.into());
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels: Some(labels),
            ..VolumeCreateRequest::default()
        };
        let created = self.client.create_volume(request).await;
        created.map(drop).map_err(|source| call(format!("create volume {name}"), source))
    }

    /// Creates a volume and fills it from a tar archive, by way of a container that never runs and has
    /// the same labels: whoever is stopped meanwhile finds both again.
    ///
    /// # Errors
    /// [`DockerError::NoSuchImage`] or [`DockerError::Call`]; a half-filled volume is removed.
    pub async fn create_volume_from_tar(
        &self,
        name: &str,
        labels: HashMap<String, String>,
        image: &str,
        archive: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), DockerError> {
        self.create_volume(name, labels.clone()).await?;
        let filled = self.fill_volume(name, labels, image, archive).await;
        if filled.is_err()
            && let Err(error) = self.remove_volume(name).await
        {
            tracing::warn!(%error, volume = name, "a half-filled volume could not be removed");
        }
        filled
    }

    async fn fill_volume(
        &self,
        name: &str,
        mut labels: HashMap<String, String>,
        image: &str,
        archive: impl Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<(), DockerError> {
        labels.insert(MANAGED.0.into(), MANAGED.1.into());
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            cmd: Some(vec!["true".into()]),
            labels: Some(labels),
            host_config: Some(HostConfig {
                binds: Some(vec![format!("{name}:/volume")]),
                network_mode: Some("none".into()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let created =
            self.client.create_container(None::<CreateContainerOptions>, body).await.map_err(
                |source| {
                    if is_not_found(&source) {
                        DockerError::NoSuchImage { image: image.to_owned() }
                    } else {
                        call(format!("create the container that fills volume {name}"), source)
                    }
                },
            )?;
        let options = UploadToContainerOptionsBuilder::default().path("/volume").build();
        let body = bollard::body_try_stream(archive);
        let uploaded = self
            .client
            .upload_to_container(&created.id, Some(options), body)
            .await
            .map_err(|source| call(format!("fill volume {name}"), source));
        // Without `v`: the volume must outlive its filler.
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        self.client.remove_container(&created.id, Some(options)).await.map_err(|source| {
            call(format!("remove the container that filled volume {name}"), source)
        })?;
        uploaded
    }

    /// Removes a volume. Absent is fine; in use by a container is `false`.
    ///
    /// # Errors
    /// [`DockerError::Call`] if the engine refuses for another reason.
    pub async fn remove_volume(&self, name: &str) -> Result<bool, DockerError> {
        let options = RemoveVolumeOptionsBuilder::default().build();
        match self.client.remove_volume(name, Some(options)).await {
            Ok(()) => Ok(true),
            Err(error) if is_not_found(&error) => Ok(true),
            Err(bollard::errors::Error::DockerResponseServerError { status_code: 409, .. }) => {
                Ok(false)
            }
            Err(source) => Err(call(format!("remove volume {name}"), source)),
        }
    }
}

impl From<Volume> for VolumeInfo {
    fn from(volume: Volume) -> Self {
        Self { name: volume.name, labels: volume.labels }
    }
}
