//! The S3 operations, each a few lines over what the other files do.

use std::collections::BTreeSet;

use s3s::dto::*;
use s3s::{S3, S3Error, S3ErrorCode, S3Request, S3Response, S3Result};

use super::attributes::Attributes;
use super::body::{self, Claim};
use super::listing::{Encoding, ask, common_prefixes, contents, count, decode_token, limit};
use super::multipart::{self, UploadId};
use super::{DiskStore, as_i64, durable, etag, s3_error};

#[async_trait::async_trait]
impl S3 for DiskStore {
    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let claim = Claim::new(&request.headers, request.trailing_headers);
        let input = request.input;
        let new = create_only(&input.if_none_match, &input.if_match)?;
        super::check_key(&input.key)?;
        let attributes = Attributes::new(
            input.content_type.map(|text| text.to_string()),
            input.content_encoding.map(|text| text.to_string()),
            input.metadata,
        );
        let make = |store: &DiskStore| {
            let draft = store.draft().map_err(|e| s3_error("create draft", e))?;
            Ok(store.0.workers.keep(draft))
        };
        let draft = self.blocking(make).await?;
        let received = body::receive(self, input.body, &claim, &draft.file, 0).await?;
        let (bucket, key) = (input.bucket, input.key);
        let tag = self
            .blocking(move |store| {
                let draft = draft.into_inner();
                attributes.save(&draft.file).map_err(|e| s3_error("keep attributes", e))?;
                let tag = etag(&draft.file.metadata().map_err(|e| s3_error("stat draft", e))?);
                store.publish(draft, &bucket, &key, new).map(|()| tag)
            })
            .await?;
        Ok(S3Response::new(PutObjectOutput {
            e_tag: Some(tag),
            checksum_crc32: received.checksum.checksum_crc32,
            checksum_crc32c: received.checksum.checksum_crc32c,
            checksum_crc64nvme: received.checksum.checksum_crc64nvme,
            checksum_sha1: received.checksum.checksum_sha1,
            checksum_sha256: received.checksum.checksum_sha256,
            ..PutObjectOutput::default()
        }))
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        let input = request.input;
        let (bucket, key) = (input.bucket, input.key);
        let (file, metadata, attributes) = self
            .blocking(move |store| {
                let (file, metadata) = store.open_object(&bucket, &key)?;
                let attributes = Attributes::load(&file);
                Ok((store.0.workers.keep(file), metadata, attributes))
            })
            .await?;
        let tag = etag(&metadata);
        check_conditions(&tag, &input.if_match, &input.if_none_match)?;
        let size = metadata.len();
        let range = match input.range {
            Some(range) => range.check(size)?,
            None => 0..size,
        };
        Ok(S3Response::new(GetObjectOutput {
            content_length: Some(as_i64(range.end - range.start)?),
            content_range: input
                .range
                .map(|_| format!("bytes {}-{}/{size}", range.start, range.end - 1)),
            body: Some(body::send(self, file, range)),
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(tag),
            last_modified: metadata.modified().ok().map(Timestamp::from),
            content_type: attributes.content_type.and_then(|text| text.parse().ok()),
            content_encoding: attributes.content_encoding.and_then(|text| text.parse().ok()),
            metadata: Some(attributes.metadata),
            ..GetObjectOutput::default()
        }))
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let input = request.input;
        let (bucket, key) = (input.bucket, input.key);
        let (metadata, attributes) = self
            .blocking(move |store| {
                let (file, metadata) = store.open_object(&bucket, &key)?;
                Ok((metadata, Attributes::load(&file)))
            })
            .await?;
        let tag = etag(&metadata);
        check_conditions(&tag, &input.if_match, &input.if_none_match)?;
        Ok(S3Response::new(HeadObjectOutput {
            content_length: Some(as_i64(metadata.len())?),
            accept_ranges: Some("bytes".to_owned()),
            e_tag: Some(tag),
            last_modified: metadata.modified().ok().map(Timestamp::from),
            content_type: attributes.content_type.and_then(|text| text.parse().ok()),
            content_encoding: attributes.content_encoding.and_then(|text| text.parse().ok()),
            metadata: Some(attributes.metadata),
            ..HeadObjectOutput::default()
        }))
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let input = request.input;
        let CopySource::Bucket { bucket: source, key: source_key, version_id: None } =
            input.copy_source
        else {
            return Err(not_implemented("copying from access points and versions"));
        };
        let replacing = input.metadata_directive.as_ref().map(MetadataDirective::as_str);
        let replacement = (replacing == Some(MetadataDirective::REPLACE)).then(|| {
            Attributes::new(
                input.content_type.map(|text| text.to_string()),
                input.content_encoding.map(|text| text.to_string()),
                input.metadata,
            )
        });
        let (bucket, key) = (input.bucket, input.key);
        let (tag, modified) = self
            .blocking(move |store| {
                let (file, _) = store.open_object(&source, &source_key)?;
                let attributes = replacement.unwrap_or_else(|| Attributes::load(&file));
                let copy = || {
                    let draft = store.draft()?;
                    std::io::copy(&mut &file, &mut &*draft.file)?;
                    attributes.save(&draft.file)?;
                    let metadata = draft.file.metadata()?;
                    Ok((draft, metadata))
                };
                let (draft, metadata) = copy().map_err(|e| s3_error("copy object", e))?;
                store.publish(draft, &bucket, &key, false)?;
                Ok((etag(&metadata), metadata.modified().ok()))
            })
            .await?;
        Ok(S3Response::new(CopyObjectOutput {
            copy_object_result: Some(CopyObjectResult {
                e_tag: Some(tag),
                last_modified: modified.map(Timestamp::from),
                ..CopyObjectResult::default()
            }),
            ..CopyObjectOutput::default()
        }))
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (bucket, key) = (request.input.bucket, request.input.key);
        self.blocking(move |store| delete(store, &bucket, &key)).await?;
        Ok(S3Response::new(DeleteObjectOutput::default()))
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let DeleteObjectsInput { bucket, delete: request, .. } = request.input;
        let quiet = request.quiet.unwrap_or(false);
        let outcomes = self
            .blocking(move |store| {
                let one = |object: ObjectIdentifier| {
                    let outcome = delete(store, &bucket, &object.key);
                    (object.key, outcome)
                };
                Ok(request.objects.into_iter().map(one).collect::<Vec<_>>())
            })
            .await?;
        let (mut deleted, mut errors) = (Vec::new(), Vec::new());
        for (key, outcome) in outcomes {
            match outcome {
                Ok(()) => {
                    deleted.push(DeletedObject { key: Some(key), ..DeletedObject::default() })
                }
                Err(error) => errors.push(Error {
                    code: Some(error.code().as_str().to_owned()),
                    key: Some(key),
                    message: error.message().map(str::to_owned),
                    version_id: None,
                }),
            }
        }
        Ok(S3Response::new(DeleteObjectsOutput {
            deleted: (!quiet).then_some(deleted),
            errors: (!errors.is_empty()).then_some(errors),
            ..DeleteObjectsOutput::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let input = request.input;
        let after = match &input.continuation_token {
            Some(token) => decode_token(token)?,
            None => input.start_after.clone().unwrap_or_default(),
        };
        let limit = limit(input.max_keys)?;
        let page = ask(self, &input.bucket, &input.prefix, after, &input.delimiter, limit).await?;
        let text = Encoding::new(input.encoding_type.as_ref());
        Ok(S3Response::new(ListObjectsV2Output {
            key_count: Some(count(&page)?),
            is_truncated: Some(page.next.is_some()),
            next_continuation_token: page.next.as_deref().map(aws_smithy_types::base64::encode),
            contents: Some(contents(&page, &text)?),
            common_prefixes: Some(common_prefixes(&page, &text)),
            name: Some(input.bucket),
            prefix: input.prefix.map(|prefix| text.encode(prefix)),
            delimiter: input.delimiter.map(|delimiter| text.encode(delimiter)),
            start_after: input.start_after.map(|after| text.encode(after)),
            max_keys: Some(limit),
            continuation_token: input.continuation_token,
            encoding_type: input.encoding_type,
            ..ListObjectsV2Output::default()
        }))
    }

    async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let input = request.input;
        let after = input.marker.clone().unwrap_or_default();
        let limit = limit(input.max_keys)?;
        let page = ask(self, &input.bucket, &input.prefix, after, &input.delimiter, limit).await?;
        let text = Encoding::new(input.encoding_type.as_ref());
        Ok(S3Response::new(ListObjectsOutput {
            is_truncated: Some(page.next.is_some()),
            contents: Some(contents(&page, &text)?),
            common_prefixes: Some(common_prefixes(&page, &text)),
            next_marker: page.next.map(|next| text.encode(next)),
            name: Some(input.bucket),
            prefix: input.prefix.map(|prefix| text.encode(prefix)),
            delimiter: input.delimiter.map(|delimiter| text.encode(delimiter)),
            marker: input.marker.map(|marker| text.encode(marker)),
            max_keys: Some(limit),
            encoding_type: input.encoding_type,
            ..ListObjectsOutput::default()
        }))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        let input = request.input;
        let attributes = Attributes::new(
            input.content_type.map(|text| text.to_string()),
            input.content_encoding.map(|text| text.to_string()),
            input.metadata,
        );
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        let id =
            self.blocking(move |store| multipart::create(store, &bucket, &key, attributes)).await?;
        Ok(S3Response::new(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id),
            checksum_algorithm: input.checksum_algorithm,
            ..CreateMultipartUploadOutput::default()
        }))
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        let claim = Claim::new(&request.headers, request.trailing_headers);
        let UploadPartInput { bucket, key, upload_id, part_number, body, .. } = request.input;
        let length = claim.length;
        let slot = self
            .blocking(move |store| {
                let upload = UploadId { bucket: &bucket, key: &key, id: &upload_id };
                multipart::slot(store, &upload, part_number, length)
                    .map(|slot| store.0.workers.keep(slot))
            })
            .await?;
        let received = body::receive(self, body, &claim, &slot.file, slot.offset).await;
        // Its lock goes before the answer, a refusal too: the upload may be ended then.
        let (received, record) = self
            .blocking(move |_| {
                let slot = slot.into_inner();
                let received = received?;
                multipart::keep_part(&slot, &received).map(|record| (received, record))
            })
            .await?;
        Ok(S3Response::new(UploadPartOutput {
            e_tag: Some(ETag::Strong(record.etag)),
            checksum_crc32: received.checksum.checksum_crc32,
            checksum_crc32c: received.checksum.checksum_crc32c,
            checksum_crc64nvme: received.checksum.checksum_crc64nvme,
            checksum_sha1: received.checksum.checksum_sha1,
            checksum_sha256: received.checksum.checksum_sha256,
            ..UploadPartOutput::default()
        }))
    }

    async fn list_parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        let ListPartsInput { bucket, key, upload_id, part_number_marker, max_parts, .. } =
            request.input;
        let (of_bucket, of_key, id) = (bucket.clone(), key.clone(), upload_id.clone());
        let parts = self
            .blocking(move |store| {
                multipart::parts(store, &UploadId { bucket: &of_bucket, key: &of_key, id: &id })
            })
            .await?;
        let marker = part_number_marker.unwrap_or_default();
        let max_parts = limit(max_parts)?;
        let rest: Vec<_> = parts.into_iter().filter(|part| part.number > marker).collect();
        let page_parts = usize::try_from(max_parts).map_err(S3Error::internal_error)?;
        let truncated = rest.len() > page_parts;
        let mut listed = Vec::new();
        for part in rest.into_iter().take(page_parts) {
            listed.push(Part {
                part_number: Some(part.number),
                size: Some(as_i64(part.size_bytes)?),
                e_tag: Some(ETag::Strong(part.etag)),
                ..Part::default()
            });
        }
        Ok(S3Response::new(ListPartsOutput {
            bucket: Some(bucket),
            key: Some(key),
            upload_id: Some(upload_id),
            is_truncated: Some(truncated),
            max_parts: Some(max_parts),
            next_part_number_marker: listed.last().and_then(|part| part.part_number),
            part_number_marker,
            parts: Some(listed),
            ..ListPartsOutput::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = request.input;
        let new = create_only(&input.if_none_match, &input.if_match)?;
        let wanted = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let (bucket, key, id) = (input.bucket.clone(), input.key.clone(), input.upload_id);
        let tag = self
            .blocking(move |store| {
                let upload = UploadId { bucket: &bucket, key: &key, id: &id };
                multipart::complete(store, &upload, &wanted, new)?;
                Ok(etag(&store.open_object(&bucket, &key)?.1))
            })
            .await?;
        Ok(S3Response::new(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(tag),
            ..CompleteMultipartUploadOutput::default()
        }))
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        let AbortMultipartUploadInput { bucket, key, upload_id, .. } = request.input;
        self.blocking(move |store| {
            multipart::abort(store, &UploadId { bucket: &bucket, key: &key, id: &upload_id })
        })
        .await?;
        Ok(S3Response::new(AbortMultipartUploadOutput::default()))
    }

    async fn create_bucket(
        &self,
        request: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let bucket = request.input.bucket;
        let location = format!("/{bucket}");
        self.blocking(move |store| {
            match store.make_bucket(&bucket).map_err(|e| s3_error("create bucket", e))? {
                true => Ok(()),
                false => Err(S3Error::new(S3ErrorCode::BucketAlreadyOwnedByYou)),
            }
        })
        .await?;
        Ok(S3Response::new(CreateBucketOutput { location: Some(location) }))
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        let bucket = request.input.bucket;
        self.blocking(move |store| match store.bucket_dir(&bucket).is_dir() {
            true => Ok(()),
            false => Err(S3Error::new(S3ErrorCode::NoSuchBucket)),
        })
        .await?;
        Ok(S3Response::new(HeadBucketOutput::default()))
    }

    async fn delete_bucket(
        &self,
        request: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let bucket = request.input.bucket;
        self.blocking(move |store| {
            std::fs::remove_dir(store.bucket_dir(&bucket)).map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => S3Error::new(S3ErrorCode::NoSuchBucket),
                std::io::ErrorKind::DirectoryNotEmpty => S3Error::new(S3ErrorCode::BucketNotEmpty),
                _ => s3_error("delete bucket", error),
            })
        })
        .await?;
        Ok(S3Response::new(DeleteBucketOutput::default()))
    }

    async fn get_bucket_location(
        &self,
        _request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        // The default region, which S3 spells as nothing.
        Ok(S3Response::new(GetBucketLocationOutput::default()))
    }

    async fn list_buckets(
        &self,
        _request: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let found =
            self.blocking(|store| buckets(store).map_err(|e| s3_error("list buckets", e))).await?;
        let bucket = |(name, created): (String, Option<std::time::SystemTime>)| Bucket {
            name: Some(name),
            creation_date: created.map(Timestamp::from),
            ..Bucket::default()
        };
        Ok(S3Response::new(ListBucketsOutput {
            buckets: Some(found.into_iter().map(bucket).collect()),
            ..ListBucketsOutput::default()
        }))
    }
}

fn not_implemented(what: &'static str) -> S3Error {
    S3Error::with_message(S3ErrorCode::NotImplemented, what)
}

/// Whether a put must meet no object. Other conditions would need a lock across processes.
fn create_only(
    if_none_match: &Option<ETagCondition>,
    if_match: &Option<ETagCondition>,
) -> S3Result<bool> {
    match (if_none_match, if_match) {
        (None, None) => Ok(false),
        (Some(condition), None) if condition.is_any() => Ok(true),
        _ => Err(not_implemented("a put on any condition but If-None-Match: *")),
    }
}

fn check_conditions(
    tag: &ETag,
    if_match: &Option<ETagCondition>,
    if_none_match: &Option<ETagCondition>,
) -> S3Result<()> {
    let is =
        |condition: &ETagCondition| condition.as_etag().is_none_or(|wanted| wanted.weak_cmp(tag));
    if if_match.as_ref().is_some_and(|condition| !is(condition)) {
        return Err(S3Error::new(S3ErrorCode::PreconditionFailed));
    }
    if if_none_match.as_ref().is_some_and(is) {
        return Err(S3Error::new(S3ErrorCode::NotModified));
    }
    Ok(())
}

fn delete(store: &DiskStore, bucket: &str, key: &str) -> S3Result<()> {
    super::check_key(key)?;
    let root = store.bucket_dir(bucket);
    match durable::remove(&root, &store.object_path(bucket, key)) {
        Ok(true) => Ok(()),
        Ok(false) if root.is_dir() => Ok(()),
        Ok(false) => Err(S3Error::new(S3ErrorCode::NoSuchBucket)),
        Err(error) => Err(s3_error("delete object", error)),
    }
}

fn buckets(store: &DiskStore) -> std::io::Result<Vec<(String, Option<std::time::SystemTime>)>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(&store.0.root)? {
        let entry = entry?;
        let name = entry.file_name().into_string().ok();
        if let Some(name) = name.filter(|name| s3s::path::check_bucket_name(name))
            && entry.file_type()?.is_dir()
        {
            found.insert((name, entry.metadata()?.created().ok()));
        }
    }
    Ok(found.into_iter().collect())
}
