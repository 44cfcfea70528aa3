"""Makes buckets, and a user with a key for everybody, on a moto server, and prints the keys as JSON.

`moto_accounts.py ENDPOINT NAME…`: a bucket `run`, a bucket `peer-NAME` for each, and the permissions of bucket-layout.md §10.
From then on the server enforces them.
"""

import json
import sys
import urllib.request

import boto3

ANY_KEY = dict(aws_access_key_id="setup", aws_secret_access_key="setup", region_name="us-east-1")


def allow(bucket, list_too, **actions):
    """Statements: `actions` is action -> key patterns within the bucket."""
    statements = [
        {"Effect": "Allow", "Action": f"s3:{action}", "Resource": [f"arn:aws:s3:::{bucket}/{key}" for key in keys]}
        for action, keys in actions.items()
    ]
    if list_too:
        statements.append({"Effect": "Allow", "Action": "s3:ListBucket", "Resource": f"arn:aws:s3:::{bucket}"})
    return statements


def owner(bucket):
    return allow(bucket, True, GetObject=["*"], PutObject=["*"], AbortMultipartUpload=["*"], DeleteObject=["probe/*"])


def reader(bucket):
    return allow(bucket, True, GetObject=["*"])


def main():
    endpoint, *names = sys.argv[1:]
    s3, iam = (boto3.client(service, endpoint_url=endpoint, **ANY_KEY) for service in ("s3", "iam"))
    for bucket in ["run", *(f"peer-{name}" for name in names)]:
        s3.create_bucket(Bucket=bucket)
    policies = {"aggregator": owner("run"), "observer": reader("run")}
    for name in names:
        # Moto does not know the participant's identity yet: the whole lobby.
        policies[name] = owner(f"peer-{name}") + reader("run") + allow("run", False, PutObject=["lobby/*"])
        policies[f"{name}-reader"] = reader(f"peer-{name}")
        # What a bucket's module sets, with a key of its own.
        rule = {"ID": "abort", "Status": "Enabled", "Filter": {"Prefix": ""},
                "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 1}}
        s3.put_bucket_lifecycle_configuration(Bucket=f"peer-{name}", LifecycleConfiguration={"Rules": [rule]})
    keys = {}
    for name, statements in policies.items():
        iam.create_user(UserName=name)
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        iam.put_user_policy(UserName=name, PolicyName="brigade", PolicyDocument=document)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        keys[name] = {"id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    # From here on nothing is allowed that no policy allows.
    request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", b"0", {"Content-Type": "text/plain"})
    urllib.request.urlopen(request).read()
    json.dump(keys, sys.stdout)


main()
