"""What a stranger can do with boto3 and the read-only key of a peer's bucket.

usage: stranger.py ENDPOINT BUCKET RUN_ID, with the key in the environment. Prints JSON.
"""

import base64
import hashlib
import json
import sys

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

endpoint, bucket, run = sys.argv[1:]
config = Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required")
s3 = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=config)


def refusal(call, **arguments):
    """The error code with which a call is refused; None when it is not."""
    try:
        call(**arguments)
    except ClientError as error:
        return error.response["Error"]["Code"]
    return None


def read(key):
    return s3.get_object(Bucket=bucket, Key=key)["Body"].read()


keys = [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket, Prefix=f"{run}/")["Contents"]]
first = f"{run}/windows/0000000000"
assert f"{first}/receipt.json" in keys and f"{first}/update.bin" in keys, keys
receipt = json.loads(base64.b64decode(json.loads(read(f"{first}/receipt.json"))["payload"]))
print(
    json.dumps(
        {
            "keys": keys,
            "sha256_in_receipt": receipt["update"]["sha256"],
            "sha256_of_update": hashlib.sha256(read(f"{first}/update.bin")).hexdigest(),
            "put": refusal(s3.put_object, Bucket=bucket, Key=f"{first}/update.bin", Body=b"mine now"),
            "delete": refusal(s3.delete_object, Bucket=bucket, Key=f"{first}/update.bin"),
            "other_bucket": refusal(s3.list_objects_v2, Bucket="peer-miner-1"),
        }
    )
)
