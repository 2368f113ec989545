//! Volumes that nobody uses any more: for cleaning up.

use std::collections::HashMap;

use bollard::query_parameters::{ListVolumesOptionsBuilder, RemoveVolumeOptionsBuilder};

use super::{Docker, DockerError, call, is_not_found};

impl Docker {
    /// Names of the volumes that no container, running or not, has mounted.
    ///
    /// # Errors
    /// [`DockerError::Call`] if the engine refuses.
    pub async fn unused_volumes(&self) -> Result<Vec<String>, DockerError> {
        let filters = HashMap::from([("dangling", vec!["true"])]);
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let answer = self
            .client
            .list_volumes(Some(options))
            .await
            .map_err(|source| call("list volumes", source))?;
        Ok(answer.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect())
    }

    /// Removes a volume. Absent is fine.
    ///
    /// # Errors
    /// [`DockerError::Call`] if the engine refuses, as it does while a container uses it.
    pub async fn remove_volume(&self, name: &str) -> Result<(), DockerError> {
        let options = RemoveVolumeOptionsBuilder::default().build();
        match self.client.remove_volume(name, Some(options)).await {
            Ok(()) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(source) => Err(call(format!("remove volume {name}"), source)),
        }
    }
}
