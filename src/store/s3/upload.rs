//! An upload in parts.

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;

use super::super::call::Call;
use super::super::governor::{Class, ranked};
use super::super::{Denial, ObjectKey, ObjectStore, StoreError, Upload};
use super::S3Store;
use super::fault::{Context, Kind};

/// Parts under way to an object. Dropped unfinished, it is aborted in the background.
pub(super) struct S3Upload {
    store: S3Store,
    key: ObjectKey,
    id: String,
    parts: Vec<CompletedPart>,
    length_bytes: u64,
    /// Neither finished nor aborted.
    open: bool,
}

impl S3Upload {
    /// Begins one.
    pub(super) async fn begin(store: &S3Store, key: &ObjectKey) -> Result<Self, StoreError> {
        let context = store.context(Call::Upload, key);
        let begin = async |_| {
            let create = store.client().create_multipart_upload();
            let create = create.bucket(&store.0.bucket).key(store.full_key(key));
            // Garage refuses parts with a checksum in an upload that did not announce one.
            let create = create.checksum_algorithm(ChecksumAlgorithm::Crc32);
            let create = create.set_storage_class(store.0.options.storage_class.clone());
            let create = create.set_tagging(store.0.options.tagging.clone());
            let answer = create.send().await.map_err(|error| context.sdk_error(&error))?;
            answer
                .upload_id()
                .map(str::to_owned)
                .ok_or_else(|| context.error(Kind::Corrupt, "no upload ID in the answer"))
        };
        let id = store.attempt(context, 0, begin).await?;
        let (store, key) = (store.clone(), key.clone());
        Ok(Self { store, key, id, parts: Vec::new(), length_bytes: 0, open: true })
    }

    async fn send_part(
        &self,
        context: Context<'_>,
        number: i32,
        body: Bytes,
    ) -> Result<CompletedPart, StoreError> {
        let part = self.store.client().upload_part();
        let part = part.bucket(&self.store.0.bucket).key(self.store.full_key(&self.key));
        let part = part.upload_id(&self.id).part_number(number);
        let part = part.checksum_algorithm(ChecksumAlgorithm::Crc32).body(ByteStream::from(body));
        let answer = part.customize().disable_payload_signing().send().await;
        let answer = answer.map_err(|error| context.sdk_error(&error))?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(answer.e_tag().map(str::to_owned))
            .set_checksum_crc32(answer.checksum_crc32().map(str::to_owned))
            .build())
    }

    async fn complete(&self, context: Context<'_>) -> Result<(), StoreError> {
        let parts = CompletedMultipartUpload::builder().set_parts(Some(self.parts.clone())).build();
        let complete = self.store.client().complete_multipart_upload();
        let complete = complete.bucket(&self.store.0.bucket);
        let complete = complete.key(self.store.full_key(&self.key)).upload_id(&self.id);
        let answer = complete.multipart_upload(parts).send().await;
        answer.map(drop).map_err(|error| context.sdk_error(&error))
    }

    /// An attempt whose answer we did not get may have made the object and closed the upload.
    async fn is_there(&self) -> bool {
        let told = ranked(Class::Archive, self.store.size_bytes(&self.key)).await;
        matches!(told, Ok(length) if length == self.length_bytes)
    }

    async fn give_back(store: &S3Store, key: &ObjectKey, id: &str) {
        let abort = store.client().abort_multipart_upload();
        let abort = abort.bucket(&store.0.bucket).key(store.full_key(key)).upload_id(id);
        let limit = store.0.options.attempt;
        match tokio::time::timeout(limit, abort.send()).await {
            Ok(Ok(_)) => {}
            // The engine's lifecycle rule, or the disk store's, gives the parts back one day.
            Ok(Err(error)) => tracing::warn!(%key, %error, "abort upload"),
            Err(_elapsed) => tracing::warn!(%key, "abort upload: no answer"),
        }
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn part(&mut self, body: Bytes) -> Result<(), StoreError> {
        let context = self.store.context(Call::Part, &self.key);
        let number = i32::try_from(self.parts.len() + 1)
            .map_err(|_too_many| context.error(Kind::Denied(Denial::Request), "too many parts"))?;
        let length = body.len() as u64;
        let send = |_| self.send_part(context, number, body.clone());
        let part = self.store.attempt(context, length, send).await?;
        self.parts.push(part);
        self.length_bytes += length;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(), StoreError> {
        if self.parts.is_empty() {
            // S3 knows no upload without a part, and Garage takes no empty one.
            let (store, key) = (self.store.clone(), self.key.clone());
            self.abort().await;
            return store.put(&key, Bytes::new()).await;
        }
        let context = self.store.context(Call::Finish, &self.key);
        // Where an engine assembles the parts by copying them, that takes as long as sending.
        let moved_bytes = self.length_bytes;
        let complete = self.store.attempt(context, moved_bytes, |before| {
            let this = &*self;
            async move {
                match this.complete(context).await {
                    Err(_) if before > 0 && this.is_there().await => Ok(()),
                    outcome => outcome,
                }
            }
        });
        complete.await?;
        self.open = false;
        Ok(())
    }

    async fn abort(mut self: Box<Self>) {
        self.open = false;
        Self::give_back(&self.store, &self.key, &self.id).await;
    }
}

impl Drop for S3Upload {
    fn drop(&mut self) {
        if !self.open {
            return;
        }
        // Without a runtime the process is ending; see give_back for who tidies up then.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (store, key) = (self.store.clone(), self.key.clone());
            let id = std::mem::take(&mut self.id);
            drop(runtime.spawn(async move { Self::give_back(&store, &key, &id).await }));
        }
    }
}
