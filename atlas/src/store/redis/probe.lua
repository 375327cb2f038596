-- Changes a key that nobody reads. KEYS: the key.
redis.call('SET', KEYS[1], '1', 'PX', 1000)
return '1'
